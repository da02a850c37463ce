"""What a wiki can show beyond plain MediaWiki."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client import calls

if TYPE_CHECKING:
    import mwclient


class Features(Record):
    """The extensions that the report uses where they are: SyntaxHighlight, and Cite."""

    highlight: bool = True
    notes: bool = True


def of(extensions: Iterable[str]) -> Features:
    """The features of a wiki with these extensions, by the names that Special:Version has."""
    names = set(extensions)
    return Features(highlight="SyntaxHighlight" in names, notes="Cite" in names)


def ask(site: mwclient.Site) -> Features:
    """The features of this wiki, in one request."""
    with calls.asking("the wiki's extensions"):
        answer = site.post("query", meta="siteinfo", siprop="extensions", formatversion=2)
        return of(str(item["name"]) for item in answer["query"]["extensions"])


def of_lab(lab: Lab, site: mwclient.Site) -> Features:
    """The features of the lab's wiki; its own one has them all, another one has said so or is asked."""
    if not lab.wiki.url:
        return Features()
    said = getattr(site, "extensions", None)
    return of(said) if said is not None else ask(site)
