"""HTML as a tree of elements, however badly it is written. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

#: Elements whose content is never shown.
_UNSEEN = {"script", "style", "head", "title", "template", "iframe", "object", "embed", "svg", "math",
           "select", "textarea", "input", "noscript", "audio", "video", "canvas"}  # fmt: skip
_VOID = {"br", "hr", "img", "input", "wbr", "col", "embed", "link", "meta", "source"}
#: Elements that end an open one of the same family, as HTML lets them.
_ENDS = {"li": ("li",), "dt": ("dt", "dd"), "dd": ("dt", "dd"), "tr": ("tr", "td", "th"),
         "td": ("td", "th"), "th": ("td", "th"), "p": ("p",)}  # fmt: skip
#: Elements nested deeper than this are taken for their text.
_DEEPEST = 40
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)


@dataclass
class Element:
    """An element, its attributes, and what is in it; '' names the whole text."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    inside: list[Element | str] = field(default_factory=list)

    @property
    def elements(self) -> list[Element]:
        """The elements in it."""
        return [item for item in self.inside if isinstance(item, Element)]

    def text(self) -> str:
        """All characters in it that are shown."""
        return "".join(item if isinstance(item, str) else item.text() for item in self.inside)


def parsed(html: str) -> Element:
    """The elements of a text, without those that are never shown."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    return builder.top


class _Builder(HTMLParser):
    """Builds elements; whatever is closed wrongly is closed where its surroundings end."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.top = Element("")
        self._open = [self.top]
        self._unseen = ""
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if self._unseen:
            self._depth += tag == self._unseen
        elif tag in _UNSEEN or "hidden" in given or _HIDDEN.search(given.get("style", "")):
            self._unseen, self._depth = ("", 0) if tag in _VOID else (tag, 1)
        else:
            self._begin(Element(tag, given))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag in _UNSEEN and tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._unseen:
            self._depth -= tag == self._unseen
            self._unseen = self._unseen if self._depth else ""
            return
        for place in range(len(self._open) - 1, 0, -1):
            if self._open[place].name == tag:
                del self._open[place:]
                return

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._open[-1].inside.append(data)

    def _begin(self, element: Element) -> None:
        while self._open[-1].name in _ENDS.get(element.name, ()):
            self._open.pop()
        if len(self._open) < _DEEPEST:
            self._open[-1].inside.append(element)
            if element.name not in _VOID:
                self._open.append(element)
