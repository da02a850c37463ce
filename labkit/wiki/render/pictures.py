"""Pictures that a wiki accepts: checked PNG, JPEG and GIF files, and formulas drawn by matplotlib. Pure.

matplotlib reads most formulas of a report (fractions, roots, sums, Greek letters, fonts, brackets). Those that
it cannot read (matrices, aligned lines, macros) have no picture, and their source is shown.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from urllib.parse import unquote

from labkit.wiki.client.protocol import Upload
from labkit.wiki.render import wikitext

#: The first bytes of each format, its last ones, and the ending of its files.
_FORMATS = {"image/png": (b"\x89PNG\r\n\x1a\n", b"", "png"), "image/jpeg": (b"\xff\xd8\xff", b"\xff\xd9", "jpg"),
            "image/gif": (b"GIF8", b";", "gif")}  # fmt: skip
#: The picture formats, the best first.
MIMES = tuple(_FORMATS)
#: Chunks of a PNG that change how it looks, besides the critical ones.
_LOOKS = (b"tRNS", b"pHYs", b"gAMA", b"sRGB")
#: Pixels an em of a formula has, how many times finer it is drawn, and the longest formula that is drawn.
EM, _SHARP, _LONGEST = 16, 3, 2000
#: TeX's words that matplotlib knows by another name, or does not need.
_WORDS = {"le": r"\leq", "ge": r"\geq", "implies": r"\Longrightarrow", "iff": r"\Longleftrightarrow",
          "tfrac": r"\frac", "displaystyle": "", "textstyle": ""}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """The bytes of a PNG, JPEG or GIF file, and its name's ending.

    ``width`` is its width on the page in pixels where that is not its own; a formula reaches ``depth``
    pixels below the line that it stands on.
    """

    ending: str
    data: bytes = field(repr=False)
    width: int = 0
    depth: float = 0.0


def upload(name: str, data: bytes, *, ending: str, text: str) -> Upload:
    """A picture to upload: one name for one content, so that nothing is ever overwritten."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "picture"
    hashed = hashlib.sha256(data).hexdigest()[:16]
    return Upload(name=f"Labkit-{slug}-{hashed}.{ending}", text=wikitext.literal(text), data=data)


def of(content: str) -> Picture | None:
    """The picture that a notebook keeps in base64; None for none."""
    try:
        return checked(base64.b64decode(content))
    except (binascii.Error, ValueError):
        return None


def checked(data: bytes) -> Picture | None:
    """The picture that these bytes are; None where they are none, or one that is cut off."""
    for start, end, ending in _FORMATS.values():
        if data.startswith(start) and data.endswith(end):
            kept = _without_words(data) if ending == "png" else data
            return Picture(ending, kept) if kept else None
    return None


def inline(address: str) -> Picture | None:
    """The picture in a ``data:`` address, None for any other one."""
    mime, _, content = address.removeprefix("data:").partition(";base64,")
    return of(unquote(content)) if mime in _FORMATS else None


def _without_words(data: bytes) -> bytes:
    """A PNG without its texts, times and profiles (they differ from machine to machine, and a wiki
    refuses a picture with markup in one); b'' when it is damaged (PNG, section 5.3)."""
    kept, place = [data[:8]], 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        kind, chunk = data[place + 4 : place + 8], data[place:end]
        if end > len(data):
            break
        kept += [chunk] if kind[:1].isupper() or kind in _LOOKS else []
        if kind == b"IEND":
            return b"".join(kept)
        place = end
    return b""


@lru_cache(maxsize=512)
def formula(tex: str, *, display: bool = False) -> Picture | None:
    """The formula as a picture, its fractions large in ``display``; None when matplotlib cannot read it."""
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    known = re.sub(
        r"\\([A-Za-z]+)", lambda word: _WORDS.get(word[1], word[0]), " ".join(tex.split())
    )
    known = known.replace(r"\frac", r"\dfrac") if display else known
    if not known.isascii() or len(known) > _LONGEST:
        return None  # matplotlib would draw another character in its place
    drawn = io.BytesIO()
    try:
        with mpl.rc_context({"savefig.transparent": True}):
            depth = math_to_image(
                f"${known}$",
                drawn,
                FontProperties(size=EM, math_fontfamily="stix"),
                72 * _SHARP,
                "png",
            )
    except (ValueError, RuntimeError):  # not its TeX; nested too deeply
        return None
    picture = checked(drawn.getvalue())
    width = int.from_bytes(drawn.getvalue()[16:20]) // _SHARP
    return replace(picture, width=width, depth=depth) if picture else None
