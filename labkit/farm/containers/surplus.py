"""Replicas that stand from an earlier description of the lab and are no longer in it."""

from __future__ import annotations

from pathlib import Path

from labkit.core import undo
from labkit.core.journal import Entry, Journal
from labkit.farm.containers import container
from labkit.model.lab import Lab


def remove(lab: Lab) -> tuple[str, ...]:
    """Those replicas are gone with their links and namespaces; returns their names.

    They are known from the journal alone: a namespace that labkit made for a replica, and the
    container, mount, folder and link of the same replica. The caller holds the lab's ``farm`` lock.
    """
    entries = Journal.of(lab).standing()
    names = surplus(lab, entries)
    own = [entry for entry in entries if _belongs(lab, entry, names)] if names else []
    _, failed = undo.unmake_these(lab, own)
    for _, error in failed:
        raise error
    return names


def surplus(lab: Lab, entries: tuple[Entry, ...]) -> tuple[str, ...]:
    """The names of the replicas that have a namespace in the journal and are not in the lab. Pure."""
    prefix = f"{lab.name}-"
    own = {replica.netns for replica in lab.farm} | {lab.host.netns}
    return tuple(
        name.removeprefix(prefix)
        for entry in entries
        if entry.kind == "netns" and (name := entry.what.get("name", "")).startswith(prefix)
        if name not in own
    )


def _belongs(lab: Lab, entry: Entry, names: tuple[str, ...]) -> bool:
    """Whether the thing of an entry is one of these replicas' own."""
    what = entry.what.get
    folders = {container.folder(lab, name) for name in names}
    match entry.kind:
        case "netns":
            return what("name") in {f"{lab.name}-{name}" for name in names}
        case "link":
            return what("name") in {lab.link_name(name) for name in names}
        case "container":
            return what("container") in names
        case "folder":
            return Path(what("path", "")) in folders
        case "mount":
            return not folders.isdisjoint(Path(what("target", "")).parents)
    return False
