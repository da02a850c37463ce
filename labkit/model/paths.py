"""Folders of the configuration: what can be one's text, and that none leads into what is the system's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from labkit.errors import ConfigError
from labkit.model.complaints import Fault
from labkit.text import line, quoted

#: Where nothing of a lab's is made, whatever leads there.
SYSTEM = (
    "/etc", "/proc", "/sys", "/dev", "/boot",
    "/bin", "/sbin", "/lib", "/lib32", "/lib64",
    "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share",
)  # fmt: skip
#: What of it is for everybody.
EVERYBODYS = ("/dev/shm",)  # noqa: S108 - not used, but allowed
#: What means something else than itself in apache2's configuration, rotatelogs' names or overlayfs' options.
MEANING = frozenset("\"'\\$%,:")
#: Linux: a name in a folder has at most so many bytes; a path, so many that the lab's own names still fit.
NAME, PATH = 255, 1024


def path(value: str) -> str:
    """The text of a path: of one line, and as long as Linux takes it. Pure."""
    line(value)
    if len(value.encode()) > PATH or any(len(p.encode()) > NAME for p in value.split("/")):
        raise Fault("path", f"is too long: at most {NAME} bytes for a name, {PATH} for all of it")
    return value


def folder(value: object) -> object:
    """An absolute folder, whose name means in every file and option just itself. Pure."""
    parsed = PurePosixPath(value) if isinstance(value, str) else PurePosixPath()
    if (
        not parsed.is_absolute()
        or ".." in parsed.parts
        or len(parsed.parts) < 2
        or "\0" in str(parsed)
    ):
        raise Fault("folder", "is no absolute path of a folder below /, without '..'")
    if found := MEANING.intersection(path(str(value))):
        raise Fault(
            "folder", f"has a {min(found)} in it, which means something else to other programs"
        )
    return value


def resolved(base: Path, value: object) -> object:
    """A path as seen from ``base``; what can be none is left for the configuration's own check to refuse."""
    if not isinstance(value, str):
        return value
    try:
        return str((base / value).resolve())
    except (OSError, RuntimeError, ValueError):  # too long, links in a ring, a zero byte
        return value


def require_apart(folders: Mapping[str, Path]) -> None:
    """Raises :class:`ConfigError` for a folder (by its key) that is, by whatever links lead there, one of the
    system's own, or below it."""
    for key, place in folders.items():
        real = f"{os.path.realpath(place)}/"
        if real.startswith(tuple(f"{name}/" for name in EVERYBODYS)):
            continue
        if real.startswith(tuple(f"{name}/" for name in SYSTEM)):
            raise ConfigError(
                f"{key} = {quoted(str(place))}",
                f"leads to {real[:-1]}, and that is the system's own",
                f"set {key} to a folder of the lab's own, or remove the link",
                f"readlink -f {place}",
                code="config.folder-system",
            )
