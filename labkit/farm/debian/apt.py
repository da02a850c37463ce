"""Where Debian packages come from: the machine's own apt configuration, unless the lab says otherwise.

The repository names no mirror: the one that this machine's apt uses is found by asking apt itself
(``apt-get indextargets``, apt-get(8)), its own suite in /etc/os-release (os-release(5)).
"""

from __future__ import annotations

import difflib
import hashlib
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from labkit import run
from labkit.errors import ConfigError, MachineError
from labkit.files import text_of, write_atomically
from labkit.lab import Lab
from labkit.result import Record

#: What apt is asked to print of each file that ``apt-get update`` would load.
TARGET_FORMAT = "$(CREATED_BY) $(REPO_URI) $(RELEASE) $(CODENAME) $(COMPONENT) $(ORIGIN)"
#: Where apt keeps its configuration, and what it knows of its sources.
APT, LISTS = Path("/etc/apt"), Path("/var/lib/apt/lists")
#: How long a mirror may take to answer: until connected, and then between two bytes (seconds).
PATIENCE = (5.0, 10.0)
#: The suites that debootstrap knows; one of them may be meant by a misspelt name.
SCRIPTS = Path("/usr/share/debootstrap/scripts")
#: What to do about a suite that a mirror lacks: one that there is or was, and one of which nobody knows.
ENDED = (
    "leave rootfs.suite empty for the machine's own; Debian keeps suites that have ended on mirrors of "
    "their own, whose address rootfs.mirror takes"
)
UNKNOWN = "leave rootfs.suite empty for the machine's own, or correct rootfs.mirror"


class Source(Record):
    """One place that packages come from: a mirror's address, a suite on it, its components."""

    mirror: str
    suite: str
    components: tuple[str, ...] = ("main",)

    @property
    def line(self) -> str:
        """The same as a line of sources.list(5)."""
        return f"deb {self.mirror} {self.suite} {' '.join(self.components)}"

    @property
    def in_folder(self) -> bool:
        """Whether the mirror is a folder of this machine, not a server."""
        return self.mirror.startswith("file:")


class Archive(Record):
    """What root file systems are made from.

    ``main`` is the suite itself, ``further`` its updates and security fixes as the machine has
    them. ``kind`` says whose choice the mirror is, without naming it.
    """

    main: Source
    further: tuple[Source, ...] = ()
    kind: str
    keyring: str = ""


def archive(lab: Lab) -> Archive:
    """Where the lab's packages come from; asks the machine's apt (a second, and again when its
    configuration has changed), not the network.

    Raises :class:`ConfigError` when neither the lab nor the machine's apt names a mirror.
    """
    release = os_release()
    main, further = choose(
        parse_targets(_targets(lab), release.get("ID", "debian")),
        codename=release.get("VERSION_CODENAME", ""),
        suite=lab.rootfs.suite,
        mirror=lab.rootfs.mirror,
    )
    keyring = Path(f"/usr/share/keyrings/{release.get('ID', 'debian')}-archive-keyring.gpg")
    return Archive(
        main=main,
        further=further,
        kind=kind(lab),
        keyring=str(keyring) if keyring.exists() else "",
    )


def suite(lab: Lab) -> str:
    """The lab's suite; the machine's own when the lab names none."""
    found = lab.rootfs.suite or os_release().get("VERSION_CODENAME", "")
    if not found:
        reason = "this machine's os-release names no suite"
        raise ConfigError("rootfs.suite", reason, "set rootfs.suite", code="config.no-suite")
    return found


def kind(lab: Lab) -> str:
    """Whose choice the mirror is, without naming it."""
    return "the lab's own mirror" if lab.rootfs.mirror else "the machine's mirror"


@cache
def architecture() -> str:
    """The machine's architecture, as Debian names it."""
    return run.run(["dpkg", "--print-architecture"]).stdout.strip()


def os_release() -> dict[str, str]:
    """What the machine says of its own system."""
    try:
        return parse_os_release(Path("/etc/os-release").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def require(archive: Archive) -> None:
    """Returns when the mirror has the suite; see :func:`require_source`."""
    require_source(archive.main, kind=archive.kind)


def require_source(source: Source, *, kind: str = "the mirror") -> None:
    """Returns when the mirror has the suite; says within some seconds what is wrong otherwise.

    :raises ConfigError: the mirror answers and has no such suite; names those near to it that it has, and
        says of one that debootstrap knows that the mirror carries it no longer.
    :raises MachineError: the mirror does not answer.
    """
    if _has(source.mirror, source.suite):
        return
    known = known_suites()
    if source.suite in known:
        reason, remedy = f"{kind} does not carry this suite, or no longer", ENDED
    else:
        found = [name for name in near(source.suite, known) if _has(source.mirror, name)]
        reason = f"{kind} has no such suite"
        remedy = f"it has {', '.join(found)}" if found else UNKNOWN
    again = f"wget -q -O- {shlex.quote(release_url(source.mirror, source.suite))}"
    value, code = f"rootfs.suite = {source.suite!r}", "config.unknown-suite"
    raise ConfigError(value, reason, remedy, again, code=code)


def proxy() -> dict[str, str]:
    """The HTTP proxy of apt's configuration as an environment for programs that are not apt."""
    text = run.run(["apt-config", "dump", "Acquire::http::Proxy"], quiet=True).stdout
    address = parse_proxy(text)
    return {"http_proxy": address} if address else {}


# -- pure ------------------------------------------------------------------------------------


def parse_targets(text: str, distribution: str = "debian") -> tuple[tuple[Source, str], ...]:
    """The sources in ``apt-get indextargets``' output (:data:`TARGET_FORMAT`), each with its
    release's codename.

    Those that only apt can read (``cdrom:``, ``mirror+…``) are left out, and, when some are known
    to be of the distribution itself, those of other makers too.
    """
    found: dict[tuple[str, str, str, bool], list[str]] = {}
    for line in text.splitlines():
        words = line.split(" ", 5)
        if len(words) != 6 or words[0] != "Packages":
            continue
        _, address, suite, codename, component, origin = words
        if re.match(r"(https?|file)://", address):
            key = (address.rstrip("/"), suite, codename, origin.lower() == distribution)
            found.setdefault(key, []).append(component)
    own_known = any(key[3] for key in found)
    return tuple(
        (Source(mirror=mirror, suite=suite, components=tuple(dict.fromkeys(components))), codename)
        for (mirror, suite, codename, own), components in found.items()
        if own or not own_known
    )


def parse_os_release(text: str) -> dict[str, str]:
    """The assignments of an os-release file, their quotes undone."""
    pairs = (line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z_]+=", line))
    return {name: "".join(shlex.split(value)) for name, value in pairs}


def parse_proxy(text: str) -> str:
    """The address in ``apt-config dump Acquire::http::Proxy``; '' when there is none."""
    found = re.search(r'^Acquire::http::Proxy "([^"]*)";', text, re.MULTILINE)
    return found[1] if found and found[1].lower() not in ("direct", "false") else ""


def choose(
    targets: Sequence[tuple[Source, str]], *, codename: str, suite: str, mirror: str
) -> tuple[Source, tuple[Source, ...]]:
    """The suite's own source, and its updates and security fixes.

    ``suite`` and ``mirror`` are the lab's, '' where it has none. A lab's own mirror is used alone; a
    suite that is not the machine's is looked for where the machine's own suite comes from.
    """
    wanted = suite or codename
    if mirror:
        return Source(mirror=mirror.rstrip("/"), suite=wanted), ()
    whole = [(source, name) for source, name in targets if "main" in source.components]
    named = [source for source, name in whole if wanted in (source.suite, name)]
    own = [source for source, name in whole if name == codename]
    main = next((source for source in (*named, *own) if "-" not in source.suite), None)
    if main is None:
        raise ConfigError(
            "rootfs.mirror",
            "this machine's apt has no mirror of Debian that debootstrap can read",
            "set rootfs.mirror to the address of one",
            "apt-get indextargets",
            code="config.no-mirror",
        )
    further = [s for s, name in targets if re.fullmatch(f"{wanted}-(updates|security)", name)]
    main_only = {"components": ("main",)}
    return (
        main.model_copy(update={"suite": wanted, **main_only}),
        tuple(source.model_copy(update=main_only) for source in further),
    )


def near(suite: str, known: Sequence[str]) -> list[str]:
    """Up to three known suites whose names look like ``suite``."""
    return difflib.get_close_matches(suite, known, 3, 0.5)


def known_suites() -> list[str]:
    """The suites that this machine's debootstrap knows."""
    return sorted(path.name for path in SCRIPTS.glob("*") if "." not in path.name)


def release_url(mirror: str, suite: str) -> str:
    """Where a mirror keeps a suite's signed list of indices."""
    return f"{mirror}/dists/{suite}/InRelease"


# -- asking ----------------------------------------------------------------------------------


def _targets(lab: Lab) -> str:
    """What apt prints of its sources (:data:`TARGET_FORMAT`); it takes its time, so it is asked once
    for each state of its configuration and its lists."""
    if lab.rootfs.mirror:
        return ""
    kept = lab.cache_dir / "debian" / f"sources-{_configured()}"
    if (text := text_of(kept)) is None:
        text = run.run(["apt-get", "indextargets", "--format", TARGET_FORMAT]).stdout
        if kept.parent.is_dir():  # a cache that was never used is left as it is
            with suppress(PermissionError):
                write_atomically(kept, text)
    return text


def _configured() -> str:
    """A hash that changes with apt's configuration and its lists."""
    places = [APT, LISTS, *APT.glob("*"), *APT.glob("*.d/*")]
    seen = sorted((str(path), path.stat().st_mtime_ns) for path in places if path.exists())
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def _has(mirror: str, suite: str) -> bool:
    address = release_url(mirror, suite)
    if address.startswith("file://"):
        folder = Path(mirror.removeprefix("file://"))
        if not folder.is_dir():
            raise _silent(mirror, "there is no such folder")
        return Path(address.removeprefix("file://")).exists()
    import requests  # a tenth of a second that a cached root file system does not need

    try:
        given = proxy().get("http_proxy")
        proxies = {"http": given} if given else None
        answer = requests.head(address, timeout=PATIENCE, allow_redirects=True, proxies=proxies)
    except requests.RequestException as error:
        raise _silent(mirror, _cause(error)) from None
    if answer.status_code >= 500:
        raise _silent(mirror, f"it answers {answer.status_code} {answer.reason}")
    return answer.ok


def _silent(mirror: str, reason: str) -> MachineError:
    return MachineError(
        f"the mirror {mirror}",
        f"does not answer: {reason}",
        "check the network, or set rootfs.mirror to a mirror that this machine reaches",
        f"wget -q -T 10 -O /dev/null {shlex.quote(mirror)}/",
        code="machine.mirror",
    )


def _cause(error: Exception) -> str:
    """The innermost reason of a failed request, without the library's wrapping."""
    if "timed out" in str(error):
        return f"nothing within {PATIENCE[0]:g} s"
    found = re.search(r"\[Errno -?\d+\] ([^'\")]+)", str(error))
    return found[1] if found else type(error).__name__
