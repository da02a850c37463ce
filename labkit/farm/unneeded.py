"""Which packages of a root file system a web server's container does not need, and why.

Needed is what apache2 and sshd depend on, as dpkg's database of the web image has it, and what
starts them. Everything else gets the first reason below that fits it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from labkit import run
from labkit.checks import Check
from labkit.display import human_bytes
from labkit.farm import image, packages, rootfs
from labkit.farm.packages import Package
from labkit.lab import Lab
from labkit.result import Cell, Outcome, Record, Table, action

#: The servers of the container.
SERVERS = ("apache2-bin", "apache2-utils", "openssh-server")  # apache2-utils: rotatelogs
#: What starts them: a shell and its tools, the folders and the users that they run with.
STARTERS = ("dash", "coreutils", "base-files", "base-passwd")
#: Packages whose use in a container is known, by what makes it superfluous there.
ROLES: Mapping[str, tuple[str, ...]] = {
    "the container's first process is apache2, not an init system": (
        "systemd", "systemd-sysv", "systemd-timesyncd", "init", "sysvinit-core", "sysvinit-utils",
        "initscripts", "dbus", "libpam-systemd", "init-system-helpers", "libnss-systemd",
    ),
    "kernel, devices and disks are the host's": (
        "udev", "kmod", "dmidecode", "e2fsprogs", "fdisk", "logsave", "mount", "pciutils", "dmsetup",
        "util-linux", "util-linux-extra", "eject", "usbutils",
    ),
    "addresses and routes are set from outside": (
        "ifupdown", "isc-dhcp-client", "isc-dhcp-common", "iproute2", "iputils-ping", "nftables",
        "iptables", "netbase", "dhcpcd-base", "inetutils-ping", "netcat-traditional",
    ),
    "package manager: needed to install, not to serve": (
        "apt", "apt-utils", "dpkg", "debconf", "debconf-i18n", "gpgv", "debian-archive-keyring",
        "tasksel", "tasksel-data", "aptitude", "usrmerge", "usr-is-merged", "sqv",
    ),
    "logs and timed jobs are the host's": (
        "rsyslog", "logrotate", "cron", "cron-daemon-common", "anacron",
    ),
    "for a person at a terminal": (
        "nano", "vim-tiny", "vim-common", "less", "whiptail", "readline-common", "bash", "login",
        "ncurses-base", "ncurses-bin", "bsdextrautils", "wget", "procps", "sensible-utils",
    ),
    "time zones: the container keeps UTC": ("tzdata",),
}  # fmt: skip
#: Sections that hold what people read.
READING = frozenset(("doc", "localization"))
READERS = frozenset(("man-db", "groff-base", "manpages", "install-info", "doc-debian", "mailcap"))


class Unneeded(Record):
    """The packages of a variant that the container does without, and their installed sizes (bytes)."""

    variant: str
    packages: tuple[str, ...]
    needed: tuple[str, ...]
    bytes: int
    total: int


@action("rootfs.unneeded")
def find(lab: Lab, variant: str = "debootstrap") -> Outcome[Unneeded]:
    """Names the packages of a root file system that serving static pages does not need, each with a
    reason and its installed size. Builds the root file system and the web image if need be."""
    built = rootfs.build(lab, variant)
    listed = packages.read(built.value.path)
    web = image.unpacked(lab, "web").lower[-1]
    needed = needed_names(packages.read(web))
    reasons = explain(listed, needed)
    by_name = {package.name: package for package in listed}
    weight = sum(by_name[name].installed for name in reasons)
    value = Unneeded(
        variant=built.value.variant,
        packages=tuple(reasons),
        needed=tuple(sorted(set(by_name) - set(reasons))),
        bytes=weight,
        total=sum(package.installed for package in listed),
    )
    return Outcome(
        value=value,
        subject=value.variant,
        summary=f"{len(reasons)} of the {len(listed)} packages of {value.variant} are not needed to "
        f"serve pages: {human_bytes(weight)} of {human_bytes(value.total)} installed.",
        changed=built.changed,
        checks=(_separable(listed, value, built.value.path), _linked(web, needed)),
        tables=(
            unneeded_table(listed, reasons),
            reason_table(by_name, reasons),
            packages.table(listed),
        ),
    )


def needed_names(web: Sequence[Package]) -> frozenset[str]:
    """What the servers and what starts them need, from the packages of the web image."""
    return packages.closure(web, (*SERVERS, *STARTERS))


def explain(listed: Sequence[Package], needed: frozenset[str]) -> dict[str, str]:
    """A reason for each package that is not needed, by name."""
    users = packages.dependants(listed)
    return {
        package.name: reason(package, users[package.name])
        for package in listed
        if package.name not in needed
    }


def reason(package: Package, users: Sequence[str]) -> str:
    """Why a container that serves pages does without a package that its servers do not depend on."""
    for why, names in ROLES.items():
        if package.name in names:
            return why
    if package.section in READING or package.name in READERS:
        return "documentation and translations: nobody reads them in a container"
    kind = "library" if package.section in ("libs", "oldlibs") else "tool"
    if users:
        return f"{kind} of packages that are not needed themselves"
    if package.essential:
        return "essential to maintain a Debian system, not to serve"
    return f"{kind} that nobody depends on (priority {package.priority})"


def unneeded_table(listed: Sequence[Package], reasons: Mapping[str, str]) -> Table:
    """One row a package that is not needed, the largest first."""
    users = packages.dependants(listed)
    rows: list[dict[str, Cell]] = [
        {
            "name": package.name,
            "installed": package.installed,
            "reason": reasons[package.name],
            "priority": package.priority,
            "section": package.section,
            "essential": package.essential,
            "needed by": packages.naming(users[package.name]),
        }
        for package in sorted(listed, key=lambda package: -package.installed)
        if package.name in reasons
    ]
    title = "Packages that serving pages does not need"
    return Table.of("unneeded", title, rows, units={"installed": "bytes"})


def reason_table(by_name: Mapping[str, Package], reasons: Mapping[str, str]) -> Table:
    """One row a reason: how many packages, what they weigh."""
    rows: list[dict[str, Cell]] = []
    for why in dict.fromkeys(reasons.values()):
        names = [name for name, given in reasons.items() if given == why]
        weight = sum(by_name[name].installed for name in names)
        rows.append({"reason": why, "packages": len(names), "installed": weight})
    rows.sort(key=lambda row: -int(row["installed"] or 0))
    return Table.of("reasons", "Why they are not needed", rows, units={"installed": "bytes"})


def _separable(listed: Sequence[Package], value: Unneeded, path: Path) -> Check:
    """The variant's own database, asked the other way round: does a needed package need one of them?"""
    drawn = packages.closure(listed, value.needed) & set(value.packages)
    return Check(
        name=f"rootfs.unneeded.{value.variant}",
        expected="no needed package depends on one that is called unneeded",
        seen=f"needed after all: {packages.naming(sorted(drawn))}" if drawn else
        f"none of the {len(value.needed)} needed depends on one of the {len(value.packages)} others",
        holds=not drawn,
        rows=("R4",),
        again=f"dpkg --root={path} --get-selections",
    )  # fmt: skip


def _linked(web: Path, needed: frozenset[str]) -> Check:
    """The dynamic linker's own answer: whose libraries do the servers load?"""
    programs = ["/usr/sbin/apache2", "/usr/sbin/sshd", *modules(web)]
    argv = ["chroot", str(web), "ldd", *programs]
    owners = library_owners(web)
    loaded = {owners.get(name, name) for name in parse_ldd(run.run(argv).stdout)}
    stray = sorted(loaded - needed)
    return Check(
        name="rootfs.unneeded.libraries",
        expected="apache2, its modules and sshd load libraries of needed packages only",
        seen=f"of {', '.join(stray)} too" if stray else f"of {len(loaded)} packages, all needed",
        holds=not stray and bool(loaded),
        rows=("R4",),
        again=" ".join(argv[:5]),
    )


def modules(root: Path) -> list[str]:
    """The files of the apache2 modules that are turned on in a root file system."""
    texts = (
        path.read_text() for path in sorted((root / "etc/apache2/mods-enabled").glob("*.load"))
    )
    return [path for text in texts for path in re.findall(r"^LoadModule\s+\S+\s+(\S+)", text, re.M)]


def parse_ldd(text: str) -> set[str]:
    """The file names of the libraries in ldd(1)'s output."""
    return {PurePosixPath(path).name for path in re.findall(r"(/\S+) \(0x", text)}


def library_owners(root: Path) -> dict[str, str]:
    """The package of each shared library in a root file system, by the library's file name."""
    owners = {}
    for listing in (root / "var/lib/dpkg/info").glob("*.list"):
        package = listing.stem.split(":")[0]
        for path in listing.read_text().splitlines():
            if ".so" in path:
                owners[PurePosixPath(path).name] = package
    return owners
