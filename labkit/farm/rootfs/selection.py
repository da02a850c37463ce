"""Which paths of packages are unpacked, by dpkg's own rules (dpkg(1), ``--path-exclude``). Pure."""

from __future__ import annotations

import fnmatch
import functools
import re
from typing import NamedTuple


class Selection(NamedTuple):
    """Patterns of paths that are ``left_out``, but for those ``kept`` nevertheless. They are a shell's; ``*``
    matches ``/`` too."""

    left_out: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def has(self, path: str) -> bool:
        """Whether a path (``/usr/share/doc/a``) is unpacked."""
        out, back = _pattern(self.left_out), _pattern(self.kept)
        return not out.fullmatch(path) or back.fullmatch(path) is not None

    @property
    def configuration(self) -> str:
        """The same for dpkg.cfg(5), so that packages that are installed later are treated alike."""
        lines = [f"path-exclude={item}\n" for item in self.left_out]
        return "".join([*lines, *(f"path-include={item}\n" for item in self.kept)])


@functools.cache
def _pattern(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)")
