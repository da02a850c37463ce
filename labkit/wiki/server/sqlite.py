"""The wiki's SQLite files, looked at before anything is served from them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from labkit.errors import StateError

#: The file with pages and accounts; those beside it MediaWiki makes again (caches, sessions, jobs).
PAGES = "wiki.sqlite"
#: SQLite's primary result codes for a file that is damaged, or is none of its own
#: (https://www.sqlite.org/rescode.html).
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN)


def mend(folder: Path) -> tuple[str, ...]:
    """Every file of the wiki in ``folder`` is whole, or is gone and made again by MediaWiki; returns the
    names of those.

    Raises :class:`StateError` when the pages themselves are damaged: nobody can make them again.
    """
    if wrong := problem(folder / PAGES, table="page"):
        raise StateError(
            str(folder / PAGES),
            f"the wiki's pages are damaged: {wrong}",
            f"put a copy of that file back; or move {folder} away: the next start makes an empty wiki, "
            "and publishing fills it, without what people wrote",
            f"ls -la {folder}",
            code="state.damaged-pages",
        )
    others = [path for path in sorted(folder.glob("*.sqlite")) if path.is_file()]
    damaged = [path for path in others if problem(path)]
    for path in damaged:
        for ending in ("", "-wal", "-shm", "-journal"):  # what was not yet written into it, too
            Path(f"{path}{ending}").unlink(missing_ok=True)
    return tuple(path.name for path in damaged)


def problem(path: Path, *, table: str = "") -> str:
    """What is wrong with a SQLite file, '' when it is whole, or in use just now.

    :param table: one that it has to have.
    """
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as database:
            (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        code = (error.sqlite_errorcode or 0) & 0xFF
        return str(error) if code in DAMAGED else ""
    if said != "ok":
        return str(said)
    return f"it has no table {table}" if table and table not in tables else ""
