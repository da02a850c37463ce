"""What axe (Deque's rules for pages that everybody can use: WCAG 2.2 A and AA) finds on a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from axe_playwright_python.sync_playwright import Axe

if TYPE_CHECKING:
    from playwright.sync_api import Page

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def obstacles(
    page: Page, within: str = "html", *, without: str = "", but: Sequence[str] = ()
) -> list[str]:
    """The rules that are broken within an element, ``without`` some in it and all rules ``but`` some; each with the
    first place and what axe says."""
    options = {
        "runOnly": {"type": "tag", "values": RULES},
        "rules": {rule: {"enabled": False} for rule in but},
    }
    context = {"include": [[within]], **({"exclude": [[without]]} if without else {})}
    found = Axe().run(page, context=context, options=options).response["violations"]
    return [
        f"{rule['id']} ({len(rule['nodes'])} times): {node['html'][:200]}: {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"][:1]
    ]
