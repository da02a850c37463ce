"""Formats values for people: numbers with units, durations, counted nouns, quoted and unprintable text, colours.

One rule holds for all text: control characters, line ends, halves of characters and characters that reverse the
direction of text are refused in configured values, and made visible wherever text is shown. Pure.
"""

from __future__ import annotations

import shlex
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError as Fault

#: Verbs whose singular does not just add an s.
SINGULAR = {"are": "is", "were": "was", "have": "has", "do": "does"}


def human(value: str | int | float | bool | None, unit: str = "") -> str:
    """Formats a value: bytes in MB or kB (powers of ten), numbers rounded."""
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
    """A number with its noun (``1 replica``, ``6 addresses``), and with a ``verb``: ``1 check holds``."""
    if count == 1:
        return f"1 {noun}{verb and ' ' + SINGULAR.get(verb, f'{verb}s')}"
    ending = "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{count:,} {noun}{ending}{verb and ' ' + verb}"


def curl(*addresses: str, options: str = "") -> str:
    """A curl command that requests addresses as labkit does: without the person's curlrc, and without a proxy for
    the lab's addresses (private ones, and names below .test)."""
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
    """White or ``dark``, whichever has more contrast with a background ``#rrggbb`` (WCAG 2.2)."""
    ground = _luminance(colour)
    light = 1.05 / (ground + 0.05)
    return "#ffffff" if light >= (ground + 0.05) / (_luminance(dark) + 0.05) else dark


def _luminance(colour: str) -> float:
    """The relative luminance of ``#rrggbb``, 0 (black) to 1 (white), as WCAG 2.2 defines it."""
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


#: Control characters by the signs that Unicode has for them.
_CONTROLS = {c: chr(0x2400 + c) for c in range(0x20)} | {0x7F: "\N{SYMBOL FOR DELETE}"}
#: Control characters without a sign, halves of characters, and characters that XML 1.0 does not allow.
_BROKEN = dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\ufffd")
#: Line and paragraph separators, and characters that change the direction of text (Unicode, annex 9).
_NUMBERED = {
    c: f"[U+{c:04X}]" for c in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
_REFUSED = _CONTROLS | _BROKEN | _NUMBERED
_SHOWN = {c: sign for c, sign in _REFUSED.items() if chr(c) not in "\t\n"}
#: Replacements for labkit's signs where a terminal's character set does not have them.
_PLAIN = str.maketrans(
    {"✔": "+", "✘": "x", "–": "-", "—": "-", "−": "-", "×": "x", "·": "-", "…": "...", "→": "->"}
)


def line(value: str) -> str:
    """Returns the text if it is one line without control characters; else raises an error of the configuration."""
    for character in value:
        if ord(character) in _REFUSED:
            raise Fault(
                "text",
                f"contains U+{ord(character):04X}, a control character, a line end or a character that reverses the "
                "direction of text: remove it",
            )
    return value


def broken(text: str) -> str:
    """The first character of a text that a page cannot contain (``U+0000``): a control character except line ends and tabs,
    or half of a character; '' without any."""
    known = _CONTROLS | _BROKEN
    found = (ord(c) for c in text if ord(c) in known and c not in "\t\n\r")
    return next((f"U+{number:04X}" for number in found), "")


def shown(text: str) -> str:
    """The text with visible signs for characters that control a terminal or reverse the direction of text; line ends
    and tabs stay."""
    return text.translate(_SHOWN)


def quoted(value: object) -> str:
    """A text in quotation marks, on one line; Python's ``repr`` of any other value."""
    if not isinstance(value, str):
        return repr(value)
    mark = '"' if "'" in value and '"' not in value else "'"
    return f"{mark}{value.translate(_REFUSED)}{mark}"


def substitute(error: UnicodeError) -> tuple[str, int]:
    """Replaces characters that an output's encoding does not have (codecs.register_error): labkit's own
    signs by plain characters, any other by a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return missing.translate(_PLAIN).encode("ascii", "replace").decode(), error.end
