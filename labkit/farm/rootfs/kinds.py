"""What kind of thing each file of a root file system is: one table of rules, the first that fits. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from labkit.farm.rootfs.scan import File

#: Kind -> the paths of its files, whole; ``{lib}`` is a folder of libraries. The order counts: a copyright file
#: is a licence before it is documentation. ``locales``: translations, and what a language
#: writes and sorts by.
PATHS: Mapping[str, str] = {
    "package-manager state": r"/var/lib/(dpkg|apt|aptitude|ucf)/.*|/var/cache/(apt|debconf)/.*"
    r"|/var/backups/.*",
    "licences": r"/usr/share/doc/.*/(copyright|LICEN[CS]E|NOTICE|COPYING)[^/]*"
    r"|/usr/share/common-licenses/.*",
    "documentation": r"/usr/share/(doc|info|doc-base|gtk-doc|lintian|bug|menu|linda)/.*",
    "man pages": r"/usr/share/man/.*|/var/cache/man/.*|/usr/local/man",
    "locales": r"/usr/share/(locale|i18n)/.*|/usr/lib/locale/.*|.*/[^/]+\.mo",
    "character sets": r"{lib}/([^/]+/)?gconv/.*",
    "time zones": r"/usr/share/zoneinfo/.*|/etc/(localtime|timezone)",
    "fonts and terminals": r"/usr/share/(fonts|consolefonts|consoletrans|keymaps|tabset)/.*"
    r"|(/usr/share|/usr/lib|/etc)/terminfo/.*|/usr/share/X11/.*",
    "headers": r"/usr/include/.*|.*/pkgconfig/.*|{lib}/.*\.(a|la|o)|/usr/share/aclocal/.*",
    "hardware lists": r"/usr/lib/udev/hwdb.*|/etc/udev/hwdb.*|/usr/share/(misc|hwdata)/[^/]*\.ids.*"
    r"|/usr/lib/(firmware|modules)/.*",
    "Perl": r"/usr/(share|lib|local/lib)(/[^/]+)?/perl.*|/usr/bin/(perl|cpan|c?prove|pod)[^/]*"
    r"|.*\.(pm|pl|ph|pod|al|ix)",
    "Python": r"/usr/(lib|share|local/lib)/python3?[^/]*/.*|/usr/bin/(py|python)[^/]*|.*\.pyc?",
    "certificates and keys": r"/usr/share/(ca-certificates|keyrings)/.*|/etc/ssl/.*"
    r"|/etc/apt/trusted\.gpg.*|.*\.(gpg|pem|crt)",
    "shell completions": r"/usr/share/(bash-completion|zsh|fish)/.*|/etc/bash_completion\.d/.*",
    "service definitions": r"(/usr/lib|/etc)/systemd/.*|/etc/(init|rc[0-6S]|cron)\.?[a-z]*/.*"
    r"|/usr/lib/(udev|tmpfiles|sysusers|modprobe|sysctl|modules-load|init)(\.d)?/.*"
    r"|/var/lib/systemd/.*|/etc/(sv|runit)/.*|/usr/share/runit/.*",
    "shared objects": r"{lib}/.*\.so([.-][^/]*)?|/usr/lib(x?32|64)?/ld-.*",
    "logs and caches": r"/var/(log|cache|tmp|spool)/.*|/run/.*",
    "configuration": r"/etc/.*",
}
LIBRARIES = r"/usr/(local/)?lib(32|64|x32|exec)?"
#: Where programs lie that people and other programs call.
PROGRAMS = re.compile(r"/(usr/(local/)?)?s?bin/.*|/usr/libexec/.*")
RULES = tuple((kind, re.compile(text.replace("{lib}", LIBRARIES))) for kind, text in PATHS.items())
KINDS = (*PATHS, "executables", "other data", "folders", "devices")


def kind(file: File) -> str:
    """The kind of a file, one of :data:`KINDS`; a link is what its own place says."""
    if file.form == "folder":
        return "folders"
    if file.form == "device":
        return "devices"
    for name, pattern in RULES:
        if pattern.fullmatch(file.path):
            return name
    if file.executable or PROGRAMS.fullmatch(file.path):
        return "executables"
    return "other data"


def kinds(files: Iterable[File]) -> dict[str, str]:
    """The kind of each file, by its path."""
    return {file.path: kind(file) for file in files}
