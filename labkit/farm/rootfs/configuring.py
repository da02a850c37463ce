"""Unpacked packages become configured ones: their own scripts run in the new root, once each, sealed off."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from labkit.core import run
from labkit.core.probes import DEVICES
from labkit.farm.rootfs.sandbox import sealed
from labkit.farm.rootfs.unpacking import DPKG, Unpacked

#: Runs first: it makes the users to whom other packages' files belong.
FIRST = "base-passwd"
#: Keys that openssh-server's script makes where there is no such file: each container has its own.
KEYS = tuple(f"etc/ssh/ssh_host_{kind}_key" for kind in ("rsa", "ecdsa", "ed25519"))
#: invoke-rc.d(8): a service may not be started.
POLICY = "#!/bin/sh\nexit 101\n"
TIMEOUT = 900.0


def configure(root: Path, packages: Sequence[Unpacked], architecture: str, epoch: int) -> None:
    """All packages are configured; nothing of them was started."""
    for name, (major, minor) in DEVICES.items():
        os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        (root / "dev" / name).chmod(0o666)
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text(POLICY, encoding="utf-8")
    policy.chmod(0o755)
    for name in KEYS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    env = {
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C",
        "SOURCE_DATE_EPOCH": str(epoch),
    }
    for package in ordered(packages):
        script = (f"/{DPKG}/info/{package.stem}.preinst", "install")
        given = env | script_environment(package.name, architecture)
        run.run(sealed(script, root=root), env=given, timeout=TIMEOUT)
    print("configuring", flush=True)
    words = ("dpkg", "--configure", "--pending", "--force-unsafe-io", "--force-confold")
    run.run(sealed(words, root=root), env=env, timeout=TIMEOUT)
    for path in (policy, *(root / name for name in KEYS)):
        path.unlink()


def ordered(packages: Iterable[Unpacked]) -> list[Unpacked]:
    """Those with a script that runs before they are unpacked, in an order in which it can. Pure."""
    return sorted((p for p in packages if p.preinst), key=lambda p: (p.name != FIRST, p.name))


def script_environment(name: str, architecture: str) -> dict[str, str]:
    """What dpkg tells a package's script (dpkg(1), ENVIRONMENT). Pure."""
    return {
        "DPKG_ADMINDIR": f"/{DPKG}",
        "DPKG_MAINTSCRIPT_ARCH": architecture,
        "DPKG_MAINTSCRIPT_NAME": "preinst",
        "DPKG_MAINTSCRIPT_PACKAGE": name,
        "DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT": "1",
    }
