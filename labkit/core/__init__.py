"""What every room uses to act on the machine and to report: programs, files, journal and undo, cache, results, tables.

- ``result``, ``tables``: what an action returns. ``progress``: what it does just now.
- ``run``: the one door to other programs. ``daemon``: servers of the lab's own. ``accesslog``: their logs.
- ``journal``, ``undo``: what labkit made, and how each kind of thing is removed; locks between processes.
- ``files``, ``cache``: files written whole, and folders that all labs share. ``probes``: what a file system can do.
- ``fonts``: which package has a font for a character.
"""

__all__ = [
    "accesslog", "cache", "daemon", "files", "fonts", "journal", "network_removal", "probes",  # noqa: F822 - its modules
    "progress", "result", "run", "tables", "undo",  # noqa: F822 - its modules
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
