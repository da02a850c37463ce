"""What publishing asks of a wiki: the values that it returns, and the protocol that an adapter implements.

Publishing, merging and remarks know this module alone. :class:`labkit.wiki.client.mediawiki.MediaWiki` is the adapter
for MediaWiki; another wiki engine needs another class with these methods, and a line in
:func:`labkit.wiki.client.session.open`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Protocol

from pydantic import Field

from labkit.records import Record


class Features(Record):
    """What the report uses where the wiki has it: code in colours (the extension SyntaxHighlight)."""

    highlight: bool = True

    @classmethod
    def of(cls, extensions: Iterable[str]) -> Features:
        """The features of a wiki with these extensions, by their names on Special:Version."""
        return cls(highlight="SyntaxHighlight" in extensions)


class SiteInfo(Record):
    """What a wiki says about itself (API: Siteinfo): ``general`` and ``namespaces`` as mwclient keeps them.

    ``mark`` names the configuration that the lab's own wiki runs with. A ``private`` wiki tells an anonymous reader
    nothing but its address.
    """

    address: str
    general: dict[str, Any] = Field(default_factory=dict)
    namespaces: dict[int, str] = Field(default_factory=dict)
    extensions: tuple[str, ...] = ()
    mark: str = ""
    private: bool = False

    @property
    def version(self) -> str:
        """The engine with its version, as ``MediaWiki 1.39.17``."""
        return str(self.general.get("generator", "MediaWiki (private)"))


class Revision(Record):
    """A revision of a page: its number, its text, who saved it and when.

    ``hidden``: the wiki's owners have hidden the text, which is '' then. ``parent`` is the number of the
    revision before it (0: none).
    """

    number: int
    text: str
    user: str = ""
    time: datetime | None = None
    hidden: bool = False
    parent: int = 0


class Snapshot(Record):
    """A page as it is now: its title (after moves and redirects), its last revision (None: no such page), and which
    of the files that were asked for the wiki has.

    ``deleted`` says who deleted it, when and why; '' when it was not deleted.
    """

    title: str
    revision: Revision | None
    files: frozenset[str]
    deleted: str = ""


class Saved(Record):
    """What the wiki saved: the new revision's number and the one before it (0 for none)."""

    revision: int
    before: int


class Upload(Record):
    """A picture that a page shows: ``name`` holds the hash of its content, ``text`` describes it."""

    name: str
    text: str
    data: bytes = Field(repr=False)


class Wiki(Protocol):
    """A session with a wiki. Each method raises :class:`~labkit.errors.WikiError` when the wiki refuses or does not
    answer; what a request that writes has done without an answer is looked up by its caller.

    ``own``: the lab's own wiki, not an existing one. ``bot`` is the account by which labkit publishes, whoever's
    session this is; ``account`` is that of this session, '' for an anonymous one.
    """

    own: bool
    bot: str
    account: str

    @property
    def features(self) -> Features:
        """Optional features of the wiki."""

    @property
    def limits(self) -> tuple[int, int]:
        """The maximum sizes of a page and of a file in bytes, as far as the wiki states them."""

    def sign_in(self) -> bool:
        """Logs in a session that has read anonymously so far; returns whether it had to."""

    def close(self) -> None:
        """Ends the session's connections."""

    def url(self, title: str) -> str:
        """Where a browser finds a page."""

    def read(self, title: str, *, files: Sequence[str] = ()) -> Snapshot:
        """The page as it is now, and which of the files the wiki has."""

    def history(
        self, title: str, *, limit: int = 500, oldest: bool = False, start: int = 0
    ) -> Iterator[Revision]:
        """The page's revisions with their texts, the last first; with ``oldest`` from the first, or from ``start``."""

    def texts(self, numbers: Iterable[int]) -> dict[int, str]:
        """The texts of revisions by their numbers; those that are hidden or gone are left out."""

    def moves(self, title: str) -> tuple[str, ...]:
        """The titles to which a page of that title was ever moved, the last first."""

    def members(self, names: Iterable[str], group: str) -> frozenset[str]:
        """Those of the accounts that are in a group of the wiki."""

    def require_editable(self, title: str) -> None:
        """Raises the error with which the wiki would refuse an edit of this page."""

    def save(self, title: str, text: str, *, base: int | None, summary: str) -> Saved | None:
        """Saves the whole text of a page, made from the revision ``base`` (None: there must be no page yet); None when
        the page had that text. Raises ConflictError when somebody saved, made or deleted the page since."""

    def send(self, item: Upload) -> bool:
        """Uploads the picture unless the wiki has it; returns whether it was uploaded."""
