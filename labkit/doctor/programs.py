"""Checks for the programs and packages that labkit needs, a browser, the mirror, and runC's security advisories."""

from __future__ import annotations

import functools
import gzip
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from debian.debian_support import Version

from labkit.core import run
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.doctor.machine import require_root
from labkit.errors import MachineError
from labkit.farm.rootfs import apt
from labkit.farm.services import browser as browsers
from labkit.model.lab import Lab

#: The one list of Debian packages, which ``./lab`` installs from.
LIST = Path(__file__).parents[1] / "debian-packages.txt"
#: The programs that labkit starts, and the package of the list that each comes with.
PROGRAMS = {
    "runc": "runc", "umoci": "umoci", "skopeo": "skopeo",
    "debootstrap": "debootstrap", "mmdebstrap": "mmdebstrap", "debuerreotype-init": "debuerreotype",
    "apache2": "apache2-bin", "rotatelogs": "apache2-utils", "dnsmasq": "dnsmasq-base", "chromium": "chromium",
    "wrk": "wrk", "curl": "curl", "ip": "iproute2", "ss": "iproute2", "ping": "iputils-ping", "nft": "nftables",
    "ssh": "openssh-client", "ssh-keygen": "openssh-client",
    "ps": "procps", "nsenter": "util-linux", "unshare": "util-linux",
    "mount": "mount", "umount": "mount",
    "php": "php-cli", "mariadbd": "mariadb-server-core", "mariadb": "mariadb-client-core",
}  # fmt: skip
INSTALL = "let ./lab install what is missing: sudo ./lab --packages"


def python(lab: Lab) -> str:
    """This interpreter's version, which is new enough: labkit would not have been installed in an older one."""
    return f"{platform.python_version()}, {sys.executable}"


def packages(lab: Lab) -> str:
    """How many packages of the list are installed; :class:`MachineError` names the missing ones."""
    wanted = parse_list(LIST.read_text(encoding="utf-8"))
    there = installed()
    lacking = [names[0] for names in wanted if not there.keys() & set(names)]
    if lacking:
        raise MachineError(
            ", ".join(lacking),
            f"{len(lacking)} of {counted(len(wanted), 'package')} missing",
            INSTALL,
            code="machine.no-packages",
        )
    return f"all {len(wanted)} are installed"


def parse_list(text: str) -> list[tuple[str, ...]]:
    """The list's entries, each a package and those that may stand for it."""
    lines = (line.partition("#")[0] for line in text.splitlines())
    return [tuple(line.replace("|", " ").split()) for line in lines if line.strip()]


@functools.cache
def installed() -> dict[str, str]:
    """The installed packages of the list and their versions; nothing where there is no dpkg."""
    names = [name for entry in parse_list(LIST.read_text(encoding="utf-8")) for name in entry]
    if run.which("dpkg-query") is None:
        return {}
    shown = "${db:Status-Status} ${Package} ${Version}\n"
    done = run.run(["dpkg-query", "--show", f"--showformat={shown}", *names], ok=(0, 1))
    lines = (line.split() for line in done.stdout.splitlines())
    return {words[1]: words[2] for words in lines if words[0] == "installed"}


def present(lab: Lab) -> str:
    """How many of :data:`PROGRAMS` there are; :class:`MachineError` names the missing ones."""
    lacking = [program for program in PROGRAMS if run.which(program) is None]
    if lacking:
        raise MachineError(
            ", ".join(lacking), "not on this machine", INSTALL, code="machine.no-program"
        )
    return f"all {len(PROGRAMS)} are present"


def table() -> Table:
    """The programs with their paths, packages and versions."""
    versions = installed()
    rows = [
        {
            "program": program,
            "path": run.which(program),
            "package": package,
            "version": versions.get(package),
        }
        for program, package in PROGRAMS.items()
    ]
    return Table.of("programs", "The programs that labkit starts", rows)


def browser(lab: Lab) -> str:
    """The browser showed a page as a stage opens one, in a network namespace with nothing to talk to."""
    require_root("a namespace for the browser")
    with tempfile.TemporaryDirectory(prefix="labkit-doctor-") as folder:
        seen = browsers.rendered(Path(folder), "<h1>rendered</h1>")
    (page,) = seen.pages
    if page.heading != "rendered":
        reason = page.error or f"shows {page.heading!r} of a page"
        raise MachineError(seen.browser, reason, INSTALL, code="machine.browser")
    return f"{seen.browser} rendered a page"


def mirror(lab: Lab) -> str:
    """The mirror answers and has the suite; raises what :func:`labkit.farm.rootfs.apt.fetch_lists` raises."""
    if lab.offline:
        return f"{apt.kind(lab)} is not asked: the lab is offline"
    archive = apt.try_update(lab)
    return f"{archive.kind} answers and has {archive.main.suite}"


CHANGELOG = Path("/usr/share/doc/runc/changelog.Debian.gz")
#: Ranges of upstream's versions that have a fix: the first with it, and the first beyond ('': none).
NOVEMBER_2025 = (("1.2.8", "1.3~"), ("1.3.3", "1.4~"), ("1.4.0~rc.3", ""))


@dataclass(frozen=True)
class Advisory:
    """A security advisory: what an attacker needs, and why this lab is not exposed."""

    name: str
    fixed: tuple[tuple[str, str], ...]
    needs: str
    why: str


ADVISORIES = (
    Advisory(
        "CVE-2024-21626", (("1.1.12", ""),),
        "an image or an exec whose working directory is a descriptor that runC leaks (/proc/self/fd/7)",
        "labkit builds the images; every process starts in /",
    ),
    Advisory(
        "CVE-2025-31133", NOVEMBER_2025,
        "a container that replaces another one's /dev/null while runC masks paths with it",
        "no two containers share a writable folder, and /dev is read-only",
    ),
    Advisory(
        "CVE-2025-52565", NOVEMBER_2025,
        "a container with a terminal, and one that replaces its /dev/pts/N meanwhile",
        "replicas have no terminal; the test containers with one share no writable folder",
    ),
    Advisory(
        "CVE-2025-52881", NOVEMBER_2025,
        "a container that redirects what runC writes into another one's /proc, by a mount that both share",
        "no two containers share a writable mount",
    ),
)  # fmt: skip


def advisories(lab: Lab) -> str:
    """Which advisories the installed runC has fixed, and which not."""
    version = installed().get("runc", "")
    fixed = {item.name: evidence(item, version) for item in ADVISORIES}
    still = [name for name, said in fixed.items() if not said]
    closed = ", ".join(f"{name} ({said})" for name, said in fixed.items() if said) or "none"
    left = f"{', '.join(still)}: this lab is not exposed, see the table advisories"
    return f"runc {version or 'of unknown version'}: fixed {closed}; not fixed {left if still else 'none'}"


def evidence(item: Advisory, version: str) -> str:
    """How it is known that a version of Debian's package has an advisory fixed; '' when it has not."""
    if CHANGELOG.exists() and item.name in gzip.decompress(CHANGELOG.read_bytes()).decode():
        return "by its changelog"
    here = Version(version or "0")
    inside = (
        Version(first) <= here and (not end or here < Version(end)) for first, end in item.fixed
    )
    return "by its version" if any(inside) else ""


def advisories_table() -> Table:
    """What each advisory needs, whether the installed runC has it fixed, and why the lab is not exposed."""
    version = installed().get("runc", "")
    rows: list[dict[str, Cell]] = [
        {
            "advisory": item.name,
            "fixed here": evidence(item, version) or "no",
            "what an attacker needs": item.needs,
            "why this lab is not exposed": item.why,
        }
        for item in ADVISORIES
    ]
    return Table.of("advisories", "Advisories of runC that matter here", rows)
