"""The steps from ``web`` to the smaller root file systems: what each leaves out, and why. Pure data."""

from __future__ import annotations

from collections.abc import Mapping

from labkit.farm.rootfs import variants
from labkit.records import Record


class Step(Record):
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
    "bash",
    "dash",
    "coreutils",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "mawk",
    "ncurses-base",
    "sed",
    "tar",
)
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
    Step(
        name="package tools",
        why="packages are installed when the image is made, never in a container",
        rule="needed",
        words=(*variants.PACKAGES, *GROUND, *COMFORT),
        kept=TOOLS,
    ),
    Step(
        name="scripts and indices of packages",
        why="dpkg's scripts for an installation that nobody does again; the list of packages stays",
        rule="paths",
        words=("/var/lib/dpkg/*", "/var/cache/debconf*", "/var/lib/ucf*", "/var/lib/pam*",
               "/var/lib/apt*", "/var/lib/systemd*", "/var/cache/apt*", "/etc/dpkg*", "/etc/apt*",
               "/usr/share/debconf*", "/usr/share/perl5*", "/usr/lib/apt*", "/usr/share/perl*"),
        kept=("/var/lib/dpkg/status", "/var/lib/dpkg/info", "/var/lib/dpkg/info/format",
              "/var/lib/dpkg/info/*.list", "/var/lib/dpkg/info/*.md5sums"),
    ),
    Step(
        name="service definitions",
        why="a container has no init system, no cron and no log rotation of its own",
        rule="paths",
        words=("/etc/init.d*", "/etc/rc?.d*", "/etc/cron*", "/etc/logrotate.d*", "/usr/lib/systemd*",
               "/etc/systemd*", "/usr/lib/tmpfiles.d*", "/usr/lib/sysusers.d*", "/usr/lib/init*",
               "/usr/lib/lsb*", "/etc/runit*", "/etc/sv*", "/usr/share/runit*", "/etc/ufw*",
               "/usr/lib/udev*", "/etc/update-motd.d*"),
    ),
    Step(
        name="modules that are off",
        why="apache2 loads what its configuration turns on, and nothing else",
        rule="modules",
    ),
    Step(
        name="device files",
        why="a container's runtime makes its own",
        rule="paths",
        words=("/dev/*",),
    ),
    Step(
        name="databases for apr-util",
        why="plug-ins by which apache2's modules ask LDAP or SQL: those modules are off",
        rule="paths",
        words=("/usr/lib/*/apr-util-1*",),
    ),
    Step(
        name="libraries that nobody loads",
        why="no program or plug-in that is left asks for them (ldd's own answer, for all files)",
        rule="libraries",
        words=LATER,
    ),
    Step(
        name="remnants of packages",
        why="configuration and licences of packages that have nothing else here any more",
        rule="remnants",
        kept=PLAIN,
    ),
)  # fmt: skip

SMALL = (
    Step(
        name="one program for all commands",
        why="busybox has them in 0.8 MB: a shell, and what apachectl and a person call",
        rule="busybox",
        words=REPLACED,
        kept=("/usr/bin/sh",),
    ),
    Step(
        name="programs that nobody calls",
        why="neither the servers nor apachectl; who logs in has busybox",
        rule="programs",
        words=PROGRAMS,
    ),
    Step(
        name="clients and helpers of ssh",
        why="the container is logged in to, nobody logs in from it; its host key is the lab's",
        rule="paths",
        words=("/usr/lib/openssh/*", "/usr/lib/sftp-server", "/etc/ssh/ssh_config*", "/etc/ssh/moduli"),
        kept=("/usr/lib/openssh/sftp-server", "/usr/lib/sftp-server", "/usr/lib/openssh/sshd-*"),
    ),
    Step(
        name="plug-ins",
        why="PAM's (keys alone log in), OpenSSL's engines and old ciphers, Kerberos'",
        rule="paths",
        words=("/usr/lib/*/security*", "/etc/security*", "/etc/pam.d*", "/etc/pam.conf",
               "/usr/lib/*/engines-*", "/usr/lib/*/ossl-modules*",
               "/usr/lib/*/krb5*", "/etc/gss*", "/usr/lib/*/gconv*", "/usr/lib/*/audit*",
               "/usr/lib/*/sasl2*", "/usr/lib/sasl2*", "/usr/lib/*/perl*"),
    ),
    Step(
        name="apache2's pictures and error pages",
        why="for listings of folders without an index, and for a configuration that is off",
        rule="paths",
        words=("/usr/share/apache2*", "/usr/lib/cgi-bin*", "/usr/lib/apache2/modules/httpd.exp"),
    ),
    Step(
        name="locales, terminals, examples",
        why="C.UTF-8's tables: programs fall back to C; terminals that nobody has",
        rule="paths",
        words=("/usr/lib/locale*", "/usr/share/locale*", "/usr/share/i18n*", "/usr/share/bash-completion*",
               "/usr/share/terminfo*", "/usr/lib/terminfo*", "/etc/terminfo*", "/usr/share/tabset*",
               "/usr/share/gdb*", "/usr/share/gcc*", "/usr/share/lintian*", "/usr/share/bug*",
               "/usr/share/polkit-1*", "/usr/share/pixmaps*", "/usr/share/misc*", "/usr/share/menu*",
               "/usr/share/apport*", "/usr/share/initramfs-tools*", "/usr/share/doc-base*",
               "/usr/share/util-linux*", "/usr/share/pam*", "/usr/share/openssh*", "/usr/share/dict*",
               "/usr/share/libc-bin*", "/usr/share/base-passwd*", "/usr/share/base-files*",
               "/usr/share/info*", "/usr/share/man*", "/usr/src*", "/usr/include*", "/usr/games*",
               "/usr/lib/mime*", "/etc/skel*", "/etc/profile.d*", "/etc/bash*", "/etc/kernel*",
               "/etc/opt*", "/etc/perl*", "/etc/alternatives*", "/etc/vconsole.conf", "/etc/mailcap*", "/run/utmp", "/var/backups*", "/var/lib/misc*"),
        kept=("*/terminfo/l/linux", "*/terminfo/x/xterm", "*/terminfo/x/xterm-256color",
              "*/terminfo/v/vt100", "*/terminfo/s/screen"),
    ),
    Step(
        name="libraries that nobody loads any more",
        why="what the programs and plug-ins asked for that are gone by now",
        rule="libraries",
        words=LATER,
    ),
    Step(
        name="more remnants of packages",
        why="configuration and licences of packages that have nothing else here by now",
        rule="remnants",
        kept=PLAIN,
    ),
)  # fmt: skip

DROPBEAR = (
    Step(
        name="a small ssh server",
        why="Debian's OpenSSH loads Kerberos, systemd's library and all of OpenSSL; dropbear answers ssh "
        "with a fifteenth of that",
        rule="swap",
        words=("openssh-server", "openssh-sftp-server", "openssh-client"),
        kept=("dropbear-bin",),
    ),
    Step(
        name="its client",
        why="nobody logs in from the container",
        rule="paths",
        words=("/usr/bin/dbclient", "/usr/bin/dropbearkey"),
    ),
    Step(
        name="libraries of OpenSSH alone",
        why="nobody else asks for them",
        rule="libraries",
        words=LATER,
    ),
    Step(
        name="remnants of OpenSSH",
        why="its configuration, and that of libraries it loaded",
        rule="remnants",
        kept=PLAIN,
    ),
)

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
