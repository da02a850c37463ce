"""The environments of the programs that labkit starts: allow-lists.

The caller's settings do not act on what labkit does: neither variables (PYTHONPATH, LC_ALL) nor files in a
home folder (a wgetrc, a matplotlibrc, a kernel for Jupyter).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

#: The caller's variables that every program sees: who calls, the terminal, the way to the network. TMPDIR is left
#: out: www-data cannot use a folder that is root's alone (libpam-tmpdir), and a chroot does not have it.
ALLOWED = (
    "USER", "LOGNAME", "SHELL", "TERM", "TZ",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
#: Further ones for a program in which a person works: JupyterLab, and the browser that it opens.
PERSONS = (
    "HOME", "TMPDIR", "BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS", "SUDO_UID", "SUDO_GID", "SUDO_USER",
)  # fmt: skip
#: A search path that finds the system's own programs even for a caller who is not root.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Debian's name for a home folder that does not exist: no program finds settings in it.
HOME = "/nonexistent"


def program(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a started program: the allow-list, a fixed PATH, HOME and locale, then ``extra``."""
    fixed = {"PATH": PATH, "HOME": HOME, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}
    if not os.geteuid():  # no compiled files of root's in a person's clone
        fixed["PYTHONDONTWRITEBYTECODE"] = "1"
    return {**_kept(ALLOWED), **fixed, **(extra or {})}


def labkit_variables() -> dict[str, str]:
    """labkit's own variables (``LABKIT_…``), for a program that imports labkit."""
    return _kept(name for name in os.environ if name.startswith("LABKIT_"))


def persons(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a program in which the person works who called labkit."""
    return program({**_kept(PERSONS), **labkit_variables(), **(extra or {})})


def _kept(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
