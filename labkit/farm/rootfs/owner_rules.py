"""Files that no package lists, by who is known to make them: tables, and nothing else. Pure.

What the scripts of one package alone name needs no rule (:mod:`labkit.farm.rootfs.owners`). Each
rule here was taken from the scripts and programs of the packages that it names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

#: What the package tools write about themselves: databases, indices, downloads, logs, backups.
STATE = re.compile(
    r"/var/lib/(dpkg|apt|aptitude|ucf)(/.*)?"
    r"|/var/cache/(apt|debconf)(/.*)?"
    r"|/var/log/(apt(/.*)?|(dpkg|alternatives)\.log.*)"
    r"|/var/backups(/.*)?"
)
#: What maintainer scripts, and the programs that they call, make -> the package that it is owed to;
#: of several the first that is installed.
MADE: Mapping[str, tuple[str, ...]] = {
    r"/(media|mnt|opt|srv|etc/opt|var/opt|usr/local(/.*)?)": ("base-files",),
    r"/etc/(passwd|group)": ("base-passwd",),
    r"/etc/((passwd|group)-|g?shadow-?|sub[ug]id-?|\.pwd\.lock)": ("passwd",),
    r"/etc/shells|/var/lib/shells\.state": ("debianutils",),
    r"/etc/nsswitch\.conf": ("base-files",),
    r"/etc/(ld\.so\.cache|ld\.so\.cache~)|/var/cache/ldconfig(/.*)?": ("libc-bin",),
    r"/usr/lib/[^/]+/gconv/gconv-modules\.cache": ("libc-bin", "libc6"),
    r"/usr/lib/locale/locale-archive|/etc/default/locale": ("locales",),
    r"/etc/(localtime|timezone)": ("tzdata",),
    r"/etc/pam\.d/common-.*|/var/lib/pam(/.*)?": ("libpam-runtime",),
    r"/etc/ssl/certs(/.*)?|/etc/ca-certificates(/.*|\.conf)?": ("ca-certificates",),
    r"/etc/ssh/ssh_host_.*": ("openssh-server",),
    r"/var/lib/apache2(/.*)?": ("apache2",),
    r"/var/cache/man(/.*)?": ("man-db",),
    r"/usr/share/info/dir(\.old)?": ("install-info", "base-files"),
    r"/(usr/lib|etc)/udev/hwdb\.bin": ("udev", "systemd-hwe-hwdb"),
    r"/etc/mtab|/root/\.ssh|/var/lib/systemd/(catalog|coredump|pstore)(/.*)?": ("systemd",),
    r"/run/(log|shm|user|sendsigs\.omit\.d|lock/subsys|systemd(/.*)?)": ("systemd",),
    r"/var/(cache|lib|log)/private": ("systemd",),
    r"/etc/systemd/(system|user)/[^/]+\.wants": ("init-system-helpers",),
    r"/var/lib/systemd/deb-systemd-(user-)?helper-[a-z]+(/[^/]+\.wants)?": ("init-system-helpers",),
    r"/run/adduser": ("adduser",),
    r"/run/mount": ("mount",),
    r"/run/runit(/.*)?": ("runit-helper",),
    r"/var/lib/wtmpdb": ("libwtmpdb0",),
}
#: What debootstrap, mmdebstrap, debuerreotype and labkit write into every root file system.
BUILT = re.compile(
    r"/dev(/.*)?"
    r"|/usr/lib(32|64|x32|o32)|/(bin|sbin|lib|lib32|lib64|libx32)"
    r"|/etc/(fstab|hostname|hosts|resolv\.conf)|/var/log/bootstrap\.log"
    r"|/etc/apt/sources\.list(\.d/[^/]+)?|/etc/apt/apt\.conf\.d/(99mmdebstrap|docker-.*)"
    r"|/etc/dpkg/dpkg\.cfg\.d/(99mmdebstrap|99labkit|docker.*)"
    r"|/usr/sbin/policy-rc\.d|/debuerreotype-epoch|/debootstrap(/.*)?"
    r"|/run/apache2|/run/lock/apache2|/run/sshd"
)
#: A unit that deb-systemd-helper(1p) has noted as enabled: where its own file lies.
NOTED = re.compile(
    r"/var/lib/systemd/deb-systemd-(?:user-)?helper-[a-z]+/(?:.*/)?([^/]+?)(?:\.dsh-also)?"
)
UNITS = ("/usr/lib/systemd/system", "/etc/systemd/system", "/usr/lib/systemd/user")
#: A module that Python compiled: the file that it was compiled from.
COMPILED = re.compile(r"(.*)/__pycache__/([^/.]+)\.[^/]+\.pyc")


def is_state(path: str) -> bool:
    """Whether the package tools wrote it about themselves."""
    return STATE.fullmatch(path) is not None


def is_built(path: str) -> bool:
    """Whether the program that built the root file system wrote it."""
    return BUILT.fullmatch(path) is not None


def maker(path: str, installed: Collection[str]) -> str:
    """The installed package to whose scripts the file is owed, '' for none that is known."""
    for pattern, packages in MADE.items():
        if re.fullmatch(pattern, path):
            return next((name for name in packages if name in installed), "")
    return ""


def sources(path: str) -> tuple[str, ...]:
    """The paths one of which a file was made from, and whose owner is its own: none for most."""
    if compiled := COMPILED.fullmatch(path):
        return (f"{compiled[1]}/{compiled[2]}.py",)
    if noted := NOTED.fullmatch(path):
        return tuple(f"{folder}/{noted[1]}" for folder in UNITS)
    return ()
