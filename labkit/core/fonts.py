"""Names the Debian package with a font for a character that no font of this machine has. Pure."""

from __future__ import annotations

import unicodedata

#: For what labkit's own font (DejaVu Sans) does not have, figures take these, where they are installed.
FAMILIES = (
    "WenQuanYi Micro Hei", "Noto Sans CJK JP", "Symbola", "FreeSans", "Unifont", "Unifont Upper",
)  # fmt: skip


def missing(characters: str) -> str:
    """Says that no font has these characters, and which package to install for the first one."""
    shown = " ".join(f"{c} (U+{ord(c):04X})" for c in characters[:5])
    more = f" and {len(characters) - 5} more" if len(characters) > 5 else ""
    return f"no font here has {shown}{more}: apt-get install {package(characters[0])}, or leave them out"


def package(character: str) -> str:
    """Debian's smallest package with a font for a character's kind."""
    if 0x1F000 <= ord(character) < 0x20000 or 0x2600 <= ord(character) < 0x27C0:
        return "fonts-unifont"  # fonts-symbola lacks emoji since 2010; figures cannot use coloured fonts
    if unicodedata.east_asian_width(character) in "WFH":
        return "fonts-wqy-microhei"
    return "fonts-freefont-ttf"
