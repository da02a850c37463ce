"""Pictures as they can be shown: checked, without what a wiki would take for a script. Pure."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from xml.etree import ElementTree

#: What the first bytes of each format are, and the ending of its files.
_FORMATS = {"image/png": (b"\x89PNG\r\n\x1a\n", "png"), "image/jpeg": (b"\xff\xd8\xff", "jpg"),
            "image/gif": (b"GIF8", "gif")}  # fmt: skip
_ENDS = {"jpg": b"\xff\xd9", "gif": b";"}
#: The picture formats, the best first.
MIMES = (*_FORMATS, "image/svg+xml")
#: Pixels across and down that a drawing is painted in at most.
WIDEST, TALLEST = 1760, 8000
#: Pixels a unit of CSS (CSS Values 4, section 6.2).
_UNITS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96.0}
_SVG = "http://www.w3.org/2000/svg"


@dataclass(frozen=True)
class Picture:
    """The bytes of a PNG, JPEG or GIF file, and its name's ending; ``width`` is how wide it is to be
    shown, in pixels, where that is not its own."""

    ending: str
    data: bytes = field(repr=False)
    width: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels; (0, 0) for other formats than PNG (its section 11.2.2)."""
        if self.ending != "png" or len(self.data) < 24:
            return 0, 0
        return int.from_bytes(self.data[16:20]), int.from_bytes(self.data[20:24])

    @property
    def mime(self) -> str:
        """Its MIME type."""
        return next(mime for mime, (_, ending) in _FORMATS.items() if ending == self.ending)


def of(mime: str, content: str) -> Picture | None:
    """The picture that a notebook keeps under a MIME type (base64, or SVG's text); None for none.

    A drawing (SVG) is painted as a PNG, so that nothing in it can act.
    """
    if mime == "image/svg+xml":
        return painted(content)
    try:
        return checked(base64.b64decode(content))
    except (binascii.Error, ValueError):
        return None


def checked(data: bytes) -> Picture | None:
    """The picture that these bytes are; None where they are none, or one that is cut off."""
    for start, ending in _FORMATS.values():
        if data.startswith(start):
            whole = ending == "png" or data.endswith(_ENDS[ending])
            kept = _without_words(data) if ending == "png" else data
            return Picture(ending, kept) if kept and whole else None
    return None


def inline(address: str) -> Picture | None:
    """The picture in a ``data:`` address, None for any other one."""
    found = re.fullmatch(r"data:(image/[a-z+]+);base64,([A-Za-z0-9+/=\s%]*)", address)
    if found is None or found[1] not in _FORMATS:
        return None
    return of(found[1], found[2].replace("%2B", "+").replace("%2F", "/").replace("%3D", "="))


def painted(svg: str, *, pixels: int = 0, fonts: bool = True) -> Picture | None:
    """A drawing as a PNG, at twice its size (``pixels`` wide where given); None where it is no SVG.

    Nothing is fetched or read for it: references to anything outside of it are taken out.
    """
    import resvg_py

    root = _drawing(svg)
    if root is None:
        return None
    width, height = _extent(root)
    across = pixels or round(min(2 * width, WIDEST))
    if not 0 < across * height / width <= TALLEST:
        return None
    text = ElementTree.tostring(root, encoding="unicode")
    try:
        data = resvg_py.svg_to_bytes(
            svg_string=text, width=across, dpi=96.0, skip_system_fonts=not fonts
        )
    except ValueError:
        return None
    made = checked(bytes(data))
    return replace(made, width=round(width)) if made else None


def _drawing(svg: str) -> ElementTree.Element | None:
    """The drawing's elements with no reference to anything outside."""
    if "<!ENTITY" in svg:
        return None
    try:
        root = ElementTree.fromstring(svg)  # noqa: S314 - no entities; a drawing of a notebook's own
    except (ElementTree.ParseError, ValueError):
        return None
    if root.tag != f"{{{_SVG}}}svg":
        return None
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.endswith("href") and not _is_within(value):
                element.attrib[name] = "#"
    return root


def _is_within(address: str) -> bool:
    return address.startswith("#") or bool(re.match(r"data:image/(?:png|jpeg|gif);", address))


def _extent(root: ElementTree.Element) -> tuple[float, float]:
    """The drawing's size in pixels, from its attributes or its view box."""
    box = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", root.get("viewBox", ""))]
    width, height = (_length(root.get(name, "")) for name in ("width", "height"))
    across, down = box[2:4] if len(box) == 4 else (300.0, 150.0)
    if across <= 0 or down <= 0:
        across, down = 300.0, 150.0
    if width and not height:
        height = width * down / across
    if height and not width:
        width = height * across / down
    return width or across, height or down


def _length(text: str) -> float:
    """A length in pixels; 0 for a missing or relative one."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    return float(found[1]) * _UNITS.get(found[2], 0.0) if found else 0.0


def _without_words(data: bytes) -> bytes:
    """A PNG without its texts, times and profiles (they differ from machine to machine, and a wiki
    refuses a picture with markup in one); b'' when it is damaged."""
    kept = [data[:8]]
    for kind, chunk in _chunks(data):
        if kind[:1].isupper() or kind in (b"tRNS", b"pHYs", b"gAMA", b"sRGB"):
            kept.append(chunk)
        if kind == b"IEND":
            return b"".join(kept)
    return b""


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """A PNG's chunks, each by its kind and whole, up to one that is cut off (PNG, section 5.3)."""
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunk = data[place : place + 12 + length]
        if len(chunk) < 12 + length:
            return
        yield chunk[4:8], chunk
        place += 12 + length
