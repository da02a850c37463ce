"""What axe (Deque's rules for pages that everybody can use: WCAG 2.2 A and AA) finds on a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from axe_playwright_python.sync_playwright import Axe

if TYPE_CHECKING:
    from playwright.sync_api import Page

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def obstacles(page: Page, within: str = "html") -> list[str]:
    """The rules that are broken within an element, each with the first place and what axe says."""
    options = {"runOnly": {"type": "tag", "values": RULES}}
    found = Axe().run(page, context=within, options=options).response["violations"]
    return [
        f"{rule['id']} ({len(rule['nodes'])} times): {node['html'][:200]}: {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"][:1]
    ]
