"""The one rule for text: which characters a line may have, and how any text is shown. Pure.

Refused or made visible are control characters, line ends, halves of characters, and the characters that
reverse the direction of the text around them. All else is text: no-break and ideographic spaces, the joiners
of Persian and of emoji, characters that are newer than this Python's table of them.
"""

from __future__ import annotations

from pydantic_core import PydanticCustomError as Fault

#: Control characters by the signs that Unicode has for them.
_CONTROLS = {c: chr(0x2400 + c) for c in range(0x20)} | {0x7F: "\N{SYMBOL FOR DELETE}"}
#: Those without a sign, halves of characters, and what XML 1.0 does not allow.
_BROKEN = dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\ufffd")
#: Line and paragraph separators, and what turns the direction around it (Unicode, annex 9), by their numbers.
_NUMBERED = {
    c: f"[U+{c:04X}]" for c in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
_REFUSED = _CONTROLS | _BROKEN | _NUMBERED
_SHOWN = {c: sign for c, sign in _REFUSED.items() if chr(c) not in "\t\n"}
#: What stands for labkit's own signs where a terminal's character set does not have them.
_PLAIN = str.maketrans(
    {"✔": "+", "✘": "x", "–": "-", "—": "-", "−": "-", "×": "x", "·": "-", "…": "...", "→": "->"}
)


def line(value: str) -> str:
    """Returns the text if it is one line of text; else raises the configuration's complaint."""
    for character in value:
        if ord(character) in _REFUSED:
            raise Fault(
                "text",
                f"has U+{ord(character):04X} in it, a control character, a line end or one that reverses the "
                "direction of text: leave it out",
            )
    return value


def broken(text: str) -> str:
    """The first character of a text that no page can have (``U+0000``): a control character but line ends and tabs,
    or half of one; '' without any."""
    known = _CONTROLS | _BROKEN
    found = (ord(c) for c in text if ord(c) in known and c not in "\t\n\r")
    return next((f"U+{number:04X}" for number in found), "")


def shown(text: str) -> str:
    """The text as it may be shown anywhere: line ends and tabs stay; what would steer a terminal or reverse
    the text's direction becomes visible."""
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
