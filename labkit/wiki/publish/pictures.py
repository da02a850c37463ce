"""The pictures of a page: those that the wiki lacks are uploaded."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from labkit.errors import WikiError
from labkit.wiki.client import api
from labkit.wiki.client.api import Upload
from labkit.wiki.client.refusals import UnansweredError
from labkit.wiki.publish.desk import Desk, Plan

#: Connections over which pictures are sent to the lab's own wiki (SQLite has one writer at a time, and
#: more would only wait for each other); others' wikis want one request at a time (API: Etiquette).
CONNECTIONS = 2


def send(desk: Desk, planned: Plan) -> None:
    """The wiki has the pictures, sent over several connections if it is the lab's own. Where the page
    itself could not be saved, none of them is sent; after one that is refused, no other.

    Raises :class:`WikiError` for a refusal, :class:`UnansweredError` when a reply did not come.
    """
    missing = [item for item in desk.uploads if item.name in planned.missing]
    desk.sent.extend(name for name in desk.tried if name not in planned.missing)
    desk.tried.clear()
    if not missing:
        return
    if planned.edits:
        api.require_editable(desk.site, desk.title)
    wrong = list[WikiError]()

    def upload(item: Upload) -> None:
        if not wrong:
            try:
                _send(desk, item)
            except WikiError as error:
                wrong.append(error)

    with ThreadPoolExecutor(CONNECTIONS if desk.site.own else 1) as pool:
        list(pool.map(upload, missing))
    if wrong:  # a refusal says more than a silence
        raise min(wrong, key=lambda error: isinstance(error, UnansweredError))


def _send(desk: Desk, item: Upload) -> None:
    try:
        if api.upload(desk.site, item):
            desk.sent.append(item.name)
    except UnansweredError:
        desk.tried.append(item.name)
        raise


def require_room(desk: Desk, planned: Plan) -> None:
    """Raises :class:`WikiError` when the page or a picture is larger than the wiki says that it takes."""
    limits = desk.site.site
    size, most = len(planned.text.encode()), int(limits.get("maxarticlesize", sys.maxsize))
    if planned.edits and size > most:
        raise _large(
            desk.title, size, most, "show less output in the notebooks, or raise $wgMaxArticleSize"
        )
    most = int(limits.get("maxuploadsize", sys.maxsize))
    for item in desk.uploads:
        if item.name in planned.missing and len(item.data) > most:
            remedy = "draw a smaller one, or raise $wgMaxUploadSize and PHP's upload_max_filesize"
            raise _large(f"File:{item.name}", len(item.data), most, remedy)


def _large(what: str, size: int, most: int, remedy: str) -> WikiError:
    reason = f"has {size:,} bytes, and the wiki takes {most:,} at most; nothing was published"
    return WikiError(what, reason, remedy, code="wiki.too-large")
