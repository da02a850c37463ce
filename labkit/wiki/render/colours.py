"""A terminal's colours on a white page, always legible. Pure."""

from __future__ import annotations

Colour = tuple[int, int, int]

#: What a preformatted block stands on, and its characters.
PAGE: Colour = (0xF8, 0xF9, 0xFA)
INK: Colour = (0x20, 0x21, 0x22)
#: The eight colours of characters, dark enough for a white page.
_INKS: tuple[Colour, ...] = (
    (0x24, 0x29, 0x2F), (0xB3, 0x26, 0x1E), (0x1A, 0x6B, 0x2F), (0x7A, 0x53, 0x00),
    (0x0B, 0x57, 0xD0), (0x8B, 0x2F, 0x97), (0x00, 0x68, 0x7A), (0x5F, 0x63, 0x68),
)  # fmt: skip
#: The sixteen colours behind characters: xterm's.
_GROUNDS: tuple[Colour, ...] = (
    (0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0), (0, 0, 238), (205, 0, 205), (0, 205, 205),
    (229, 229, 229), (127, 127, 127), (255, 0, 0), (0, 255, 0), (255, 255, 0), (92, 92, 255),
    (255, 0, 255), (0, 255, 255), (255, 255, 255),
)  # fmt: skip
#: The contrast that text needs (WCAG 2.1, success criterion 1.4.3).
_ENOUGH = 4.5


def of_16(number: int, *, bright: bool = False, ground: bool = False) -> Colour:
    """One of the eight colours (0 to 7) or their bright forms."""
    return _GROUNDS[number + 8 * bright] if ground else _INKS[number]


def of_256(number: int) -> Colour:
    """One of xterm's 256 colours: the sixteen, a cube of 6 by 6 by 6, 24 greys."""
    if number < 16:
        return _GROUNDS[number]
    if number < 232:
        steps = (0, 95, 135, 175, 215, 255)
        cube = number - 16
        return steps[cube // 36], steps[cube // 6 % 6], steps[cube % 6]
    grey = 8 + 10 * (min(number, 255) - 232)
    return grey, grey, grey


def css(
    ink: Colour | None, ground: Colour | None, *, inverse: bool = False, faint: bool = False
) -> list[str]:
    """The declarations of these colours; characters are darkened or lightened until they can be read."""
    if inverse:
        ink, ground = ground or PAGE, ink or INK
    if faint and ink is None and ground is None:
        ink = _INKS[7]
    if ink is None and ground is None:
        return []
    shown = _legible(ink or INK, ground or PAGE)
    behind = [f"background-color:{_hex(ground)}"] if ground else []
    return [f"color:{_hex(shown)}", *behind]


def _legible(ink: Colour, ground: Colour) -> Colour:
    """The nearest colour towards black or white that stands out enough."""
    end = 0 if contrast((0, 0, 0), ground) >= contrast((255, 255, 255), ground) else 255
    for step in range(21):
        red, green, blue = (round(value + (end - value) * step / 20) for value in ink)
        if contrast((red, green, blue), ground) >= _ENOUGH:
            return red, green, blue
    return end, end, end


def contrast(one: Colour, other: Colour) -> float:
    """The contrast ratio (WCAG 2.1)."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Colour) -> float:
    parts = [value / 255 for value in colour]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{value:02x}" for value in colour)
