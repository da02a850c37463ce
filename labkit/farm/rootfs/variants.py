"""Defines the named variants of root file systems, and the steps from ``web`` to the smaller ones.

:mod:`labkit.farm.rootfs.commands` has the commands of each variant. ``docker`` and ``docker-slim`` are made as the
official Debian images are: their makers publish debuerreotype(1) and build the images with it. Pure, except for :func:`prepare`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from labkit.model.config import unknown
from labkit.model.lab import Lab

#: Names of variants that a lab's ``rootfs.tool`` reads in its own way.
BY_TOOL = {
    ("debootstrap", "essential"): "debootstrap",
    ("debootstrap", "mmdebstrap"): "minbase",
    ("mmdebstrap", "minbase"): "mmdebstrap",
}
#: What is installed, and the modules of apache2 that are turned on.
PACKAGES = ("apache2", "openssh-server")
MODULES = ("headers", "include")
#: The packages that have an ssh server.
SSH = ("openssh-server", "dropbear-bin")
#: Folders that the services' start scripts make, with their modes. Where an engine mounts memory on one, runC gives it
#: the folder's mode, and root as its owner: apache2, which is not root, can write into it nonetheless.
FOLDERS: Mapping[str, int] = {
    "run/apache2": 0o1777, "run/lock/apache2": 0o1777, "var/log/apache2": 0o1777, "run/sshd": 0o755,
}  # fmt: skip


class Variant(NamedTuple):
    """One way to make a root file system.

    ``tool`` is the program, ``mode`` its own name for the variant; ``space`` the bytes that must be
    free while it is built; ``after`` the variant that it is made from, '' for none; ``image`` the
    tag's ending of the official image of this kind, None when there is none. One that ``serves`` has
    the farm's servers in it. ``edition`` goes up with every change of what labkit's own tool makes.
    """

    name: str
    tool: Literal["debootstrap", "mmdebstrap", "debuerreotype", "dpkg"]
    mode: str
    about: str
    after: str = ""
    image: str | None = None
    serves: bool = False
    edition: int = 1
    space: int = 900_000_000


VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("debootstrap", "debootstrap", "", "debootstrap's default: required and important packages"),
        Variant("minbase", "debootstrap", "minbase", "debootstrap's minbase: required packages and apt"),
        Variant("mmdebstrap", "mmdebstrap", "minbase", "the same set of packages by mmdebstrap"),
        Variant("essential", "mmdebstrap", "essential",
                "essential packages and apt, without documentation: the farm's base"),
        Variant("docker", "debuerreotype", "", "the base image debian of Docker", after="minbase", image=""),
        Variant("docker-slim", "debuerreotype", "slim", "the base image debian, slim, of Docker",
                after="docker", image="-slim"),
        Variant("web", "dpkg", "", "apache2 and sshd with all of dpkg and apt, without documentation", serves=True),
        Variant("web-slim", "dpkg", "shrunk", "the same servers and a shell, without what administers packages",
                after="web", edition=6, serves=True),
        Variant("smallest-openssh", "dpkg", "shrunk", "apache2, sshd and busybox, and what these load",
                after="web", edition=6, serves=True),
        Variant("smallest", "dpkg", "shrunk", "apache2, dropbear instead of sshd, and busybox, and what these load",
                after="web", edition=6, serves=True),
    )
}  # fmt: skip


def named(name: str) -> Variant:
    """The variant of that name; raises :class:`ConfigError` with the nearest one."""
    if name not in VARIANTS:
        raise unknown(name, VARIANTS, "a variant of a root file system")
    return VARIANTS[name]


def of_lab(lab: Lab) -> Variant:
    """The variant that the lab's containers stand on (``rootfs.tool`` and ``rootfs.variant``)."""
    tool, name = lab.rootfs.tool, lab.rootfs.variant
    return named(BY_TOOL.get((tool, name), name))


def programs(variant: Variant, *, registry: str = "") -> tuple[str, ...]:
    """The programs that its build starts."""
    isolation = ("setpriv", "unshare", "dpkg")
    if registry and variant.image is not None:
        return (*isolation, "skopeo", "umoci")
    own = {
        "debootstrap": ("debootstrap", "wget"),
        "mmdebstrap": ("mmdebstrap",),
        "debuerreotype": ("debootstrap", "debuerreotype-init", "debuerreotype-slimify"),
        "dpkg": ("apt-get", "dpkg-query"),
    }
    return (*isolation, *own[variant.tool])


def package_of(variant: Variant, *, registry: str = "") -> str:
    """The Debian package whose version decides what is built."""
    return "skopeo" if registry and variant.image is not None else variant.tool


def prepare(root: Path) -> None:
    """The folders are there that the servers' own start scripts would make."""
    for name, mode in FOLDERS.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    os.chown(root / "run/lock/apache2", *_owner(root / "etc/passwd", "www-data"))


def _owner(passwd: Path, name: str) -> tuple[int, int]:
    """The user and group number of a user in a root file system."""
    rows = (line.split(":") for line in passwd.read_text(encoding="utf-8").splitlines())
    return next((int(row[2]), int(row[3])) for row in rows if row[0] == name)


# -- the steps to the smaller ones -------------------------------------------------------------------


class Step(NamedTuple):
    """One declared step: its name, the reason for it, the rule (:data:`labkit.farm.rootfs.shrink.RULES`)
    that says what leaves, and what the rule is given: ``words``, and ``kept`` for exceptions.

    ``breaks`` is what it would break, for a step that is tried and never part of a variant.
    """

    name: str
    why: str
    rule: str
    words: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    breaks: str = ""


#: What a system is administered with: packages that install, configure and describe packages.
TOOLS = (
    "adduser", "apt", "debconf", "debian-archive-keyring", "debianutils", "dpkg", "gpgv",
    "init-system-helpers", "lsb-base", "perl", "perl-base", "procps", "runit-helper",
    "sensible-utils", "systemd", "sysvinit-utils", "ucf", "usr-is-merged",
)  # fmt: skip
#: What a person who logs in works with.
COMFORT = (
    "bash", "dash", "coreutils", "findutils", "grep", "gzip", "hostname", "mawk", "ncurses-base", "sed", "tar",
)  # fmt: skip
#: What every program relies on: users, names, the system's own name.
GROUND = ("base-files", "base-passwd", "libc-bin", "media-types")
#: The commands of packages that busybox has, too.
REPLACED = (
    "bash", "bsdutils", "coreutils", "dash", "diffutils", "findutils", "grep", "gzip", "hostname",
    "login", "mawk", "ncurses-bin", "passwd", "procps", "sed", "tar", "util-linux",
)  # fmt: skip
#: The programs that a replica is for, and those that they or an administrator call.
PROGRAMS = (
    "apache2", "apache2ctl", "apachectl", "sshd", "dropbear", "dropbearconvert", "getent",
    "busybox",
)  # fmt: skip
#: Packages that consist of users, types, names or others' licences, and of no program that is needed.
PLAIN = (
    "base-files", "base-passwd", "debianutils", "gcc-*-base", "libc-bin", "media-types", "passwd",
)  # fmt: skip
#: Loaded while a program runs: by the C library when a thread ends, and, up to version 2.33, for names.
LATER = ("*/libgcc_s.so.*", "*/libnss_files*", "*/libnss_dns*")


SLIM = (
    Step("package tools",
         "packages are installed when the image is made, never in a container", "needed",
         words=(*PACKAGES, *GROUND, *COMFORT),
         kept=TOOLS),
    Step("scripts and indices of packages",
         "dpkg's scripts for an installation that nobody does again; the list of packages stays", "paths",
         words=("/var/lib/dpkg/*", "/var/cache/debconf*", "/var/lib/ucf*", "/var/lib/pam*", "/var/lib/apt*",
                "/var/lib/systemd*", "/var/cache/apt*", "/etc/dpkg*", "/etc/apt*", "/usr/share/debconf*",
                "/usr/share/perl5*", "/usr/lib/apt*", "/usr/share/perl*"),
         kept=("/var/lib/dpkg/status", "/var/lib/dpkg/info", "/var/lib/dpkg/info/format", "/var/lib/dpkg/info/*.list",
               "/var/lib/dpkg/info/*.md5sums")),
    Step("service definitions",
         "a container has no init system, no cron and no log rotation of its own", "paths",
         words=("/etc/init.d*", "/etc/rc?.d*", "/etc/cron*", "/etc/logrotate.d*", "/usr/lib/systemd*",
                "/etc/systemd*", "/usr/lib/tmpfiles.d*", "/usr/lib/sysusers.d*", "/usr/lib/init*", "/usr/lib/lsb*",
                "/etc/runit*", "/etc/sv*", "/usr/share/runit*", "/etc/ufw*", "/usr/lib/udev*", "/etc/update-motd.d*")),
    Step("modules that are off",
         "apache2 loads what its configuration turns on, and nothing else", "modules"),
    Step("device files",
         "a container's runtime makes its own", "paths",
         words=("/dev/*",)),
    Step("databases for apr-util",
         "plug-ins by which apache2's modules ask LDAP or SQL: those modules are off", "paths",
         words=("/usr/lib/*/apr-util-1*",)),
    Step("libraries that nobody loads",
         "no program or plug-in that is left asks for them (ldd's own answer, for all files)", "libraries",
         words=LATER),
    Step("remnants of packages",
         "configuration and licences of packages that have nothing else here any more", "remnants",
         kept=PLAIN),
)  # fmt: skip


SMALL = (
    Step("one program for all commands",
         "busybox has them in 0.8 MB: a shell, and what apachectl and a person call", "busybox",
         words=REPLACED,
         kept=("/usr/bin/sh",)),
    Step("programs that nobody calls",
         "neither the servers nor apachectl; who logs in has busybox", "programs",
         words=PROGRAMS),
    Step("clients and helpers of ssh",
         "the container is logged in to, nobody logs in from it; its host key is the lab's", "paths",
         words=("/usr/lib/openssh/*", "/usr/lib/sftp-server", "/etc/ssh/ssh_config*", "/etc/ssh/moduli"),
         kept=("/usr/lib/openssh/sftp-server", "/usr/lib/sftp-server", "/usr/lib/openssh/sshd-*")),
    Step("plug-ins",
         "PAM's (keys alone log in), OpenSSL's engines and old ciphers, Kerberos'", "paths",
         words=("/usr/lib/*/security*", "/etc/security*", "/etc/pam.d*", "/etc/pam.conf", "/usr/lib/*/engines-*",
                "/usr/lib/*/ossl-modules*", "/usr/lib/*/krb5*", "/etc/gss*", "/usr/lib/*/gconv*", "/usr/lib/*/audit*",
                "/usr/lib/*/sasl2*", "/usr/lib/sasl2*", "/usr/lib/*/perl*")),
    Step("apache2's pictures and error pages",
         "for listings of folders without an index, and for a configuration that is off", "paths",
         words=("/usr/share/apache2*", "/usr/lib/cgi-bin*", "/usr/lib/apache2/modules/httpd.exp")),
    Step("locales, terminals, examples",
         "C.UTF-8's tables: programs fall back to C; terminals that nobody has", "paths",
         words=("/usr/lib/locale*", "/usr/share/locale*", "/usr/share/i18n*", "/usr/share/bash-completion*",
                "/usr/share/terminfo*", "/usr/lib/terminfo*", "/etc/terminfo*", "/usr/share/tabset*",
                "/usr/share/gdb*", "/usr/share/gcc*", "/usr/share/lintian*", "/usr/share/bug*",
                "/usr/share/polkit-1*", "/usr/share/pixmaps*", "/usr/share/misc*", "/usr/share/menu*",
                "/usr/share/apport*", "/usr/share/initramfs-tools*", "/usr/share/doc-base*", "/usr/share/util-linux*",
                "/usr/share/pam*", "/usr/share/openssh*", "/usr/share/dict*", "/usr/share/libc-bin*",
                "/usr/share/base-passwd*", "/usr/share/base-files*", "/usr/share/info*", "/usr/share/man*",
                "/usr/src*", "/usr/include*", "/usr/games*", "/usr/lib/mime*", "/etc/skel*", "/etc/profile.d*",
                "/etc/bash*", "/etc/kernel*", "/etc/opt*", "/etc/perl*", "/etc/alternatives*", "/etc/vconsole.conf",
                "/etc/mailcap*", "/run/utmp", "/var/backups*", "/var/lib/misc*"),
         kept=("*/terminfo/l/linux", "*/terminfo/x/xterm", "*/terminfo/x/xterm-256color", "*/terminfo/v/vt100",
               "*/terminfo/s/screen")),
    Step("libraries that nobody loads any more",
         "what the programs and plug-ins asked for that are gone by now", "libraries",
         words=LATER),
    Step("more remnants of packages",
         "configuration and licences of packages that have nothing else here by now", "remnants",
         kept=PLAIN),
)  # fmt: skip


DROPBEAR = (
    Step("a small ssh server",
         "Debian's OpenSSH loads Kerberos, systemd's library and all of OpenSSL; dropbear answers ssh "
         "with a fifteenth of that", "swap",
         words=("openssh-server", "openssh-sftp-server", "openssh-client"),
         kept=("dropbear-bin",)),
    Step("its client", "nobody logs in from the container", "paths", words=("/usr/bin/dbclient", "/usr/bin/dropbearkey")),
    Step("libraries of OpenSSH alone", "nobody else asks for them", "libraries", words=LATER),
    Step("remnants of OpenSSH", "its configuration, and that of libraries it loaded", "remnants", kept=PLAIN),
)  # fmt: skip


#: Variant -> its steps, all from ``web`` on.
LADDER: Mapping[str, tuple[Step, ...]] = {
    "web-slim": SLIM,
    "smallest-openssh": (*SLIM, *SMALL),
    "smallest": (*SLIM, *SMALL, *DROPBEAR),
}


#: The packages that a variant's steps add.
ADDED: Mapping[str, tuple[str, ...]] = {
    "web-slim": (),
    "smallest-openssh": ("busybox",),
    "smallest": ("busybox", "dropbear-bin"),
}
