"""How values look to a person: numbers with units, durations, counted nouns, commands, colours. Pure."""

from __future__ import annotations

import shlex
from ipaddress import ip_address
from urllib.parse import urlsplit

#: Verbs whose singular does not just add an s.
SINGULAR = {"are": "is", "were": "was", "have": "has", "do": "does"}


def human(value: str | int | float | bool | None, unit: str = "") -> str:
    """A value as a person reads it: bytes in MB or KB (powers of ten), seconds and numbers rounded."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if unit == "bytes":
        return human_bytes(value)
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}"


def human_bytes(count: float) -> str:
    """A number of bytes in the largest fitting power of ten: ``171.3 MB``, ``−4.6 MB``."""
    sign, count = "−" if count < 0 else "", abs(count)
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{sign}{count / size:,.1f} {unit}"
    return f"{sign}{int(count)} B"


def duration(seconds: float) -> str:
    """A duration as people read it: ``4.2 s``, ``3 min 20 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def about(seconds: float) -> str:
    """An expected duration, in steps of five seconds: ``45 s``, ``1 min 40 s``."""
    minutes, rest = divmod(5 * round(seconds / 5), 60)
    return " ".join(
        [*([f"{minutes} min"] if minutes else []), *([f"{rest} s"] if rest or not minutes else [])]
    )


def counted(count: int, noun: str, verb: str = "") -> str:
    """A number and its noun (``1 replica``, ``6 addresses``), with a ``verb`` also that: ``1 check holds``."""
    if count == 1:
        return f"1 {noun}{verb and ' ' + SINGULAR.get(verb, f'{verb}s')}"
    ending = "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{count:,} {noun}{ending}{verb and ' ' + verb}"


def curl(*addresses: str, options: str = "") -> str:
    """A curl command that asks addresses as labkit does: without the person's curlrc, and without a proxy if
    they are the lab's own (private ones, and names below .test)."""
    hosts = [urlsplit(address).hostname or "" for address in addresses]
    near = ("--noproxy", "'*'") if all(map(_is_near, hosts)) else ()
    words = ("curl", "--disable", *near, options, *map(shlex.quote, addresses))
    return " ".join(word for word in words if word)


def _is_near(host: str) -> bool:
    try:
        return ip_address(host).is_private
    except ValueError:
        return host.endswith(".test")


def ink_on(colour: str, dark: str = "#1f2933") -> str:
    """Whichever of white and ``dark`` has more contrast with a background ``#rrggbb`` (WCAG 2.2)."""
    ground = _luminance(colour)
    light = 1.05 / (ground + 0.05)
    return "#ffffff" if light >= (ground + 0.05) / (_luminance(dark) + 0.05) else dark


def _luminance(colour: str) -> float:
    """The relative luminance of ``#rrggbb``, 0 (black) to 1 (white), as WCAG 2.2 defines it."""
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
