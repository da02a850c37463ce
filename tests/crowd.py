"""Publishers and teachers at once on one page of a real wiki, and what has become of every line."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from labkit import Lab
from labkit.errors import WikiError
from labkit.wiki.client.refusals import ConflictError
from tests.desks import SUMMARY, WEB, Desk, fresh, opened, stage

#: Lines of the page after which teachers write: in a sentence's block, in a table, between blocks.
PLACES = (
    "Two stages.", "| package 1 || 10", "| package 2 || 20", "Six pages.", "The end.",
    "<!-- labkit:end summary -->", "<!-- labkit:end 02-rootfs -->",
)  # fmt: skip


@dataclass
class Crowd:
    """What was counted: ``lost``, ``doubled``, ``stale`` and ``missing`` are lines of the page in the
    end, ``gone`` remarks that a later revision of the history lacked; ``given_up`` are publications and
    teachers' edits that came to an error (too many conflicts, no word from a busy wiki), and ``said``
    what those errors say."""

    remarks: int = 0
    publications: int = 0
    conflicts: int = 0
    given_up: int = 0
    put_back: int = 0
    revisions: int = 0
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def crowd(lab: Lab, folder: Path, *, page: str, remarks: int, each: int = 3) -> Crowd:
    """Publishers (machines of their own) publish other numbers again and again while as many teachers
    write so many remarks together; then one publishes once more."""
    seen, done, lock = Crowd(remarks=remarks), threading.Event(), threading.Lock()
    numbers, wanted = itertools.count(1), [f"REX> remark {n:03}" for n in range(remarks)]
    begun = time.monotonic()

    def report(desk: Desk) -> None:
        while not done.is_set():
            try:
                made = desk.publish(SUMMARY, stage(1000 + next(numbers)), WEB)
            except WikiError as error:
                with lock:
                    seen.given_up += 1
                    seen.said.append(f"publisher: {error}")
                continue
            with lock:
                seen.publications += 1
                seen.conflicts += made.attempts - 1
                seen.put_back += len(made.put_back)

    def teach(desk: Desk, mine: list[str]) -> None:
        for n, remark in enumerate(mine):
            there = False
            while not there:
                try:
                    there = remark in desk.text
                    if not there:
                        desk.after(PLACES[n % len(PLACES)], remark)
                except ConflictError:
                    with lock:
                        seen.conflicts += 1
                except WikiError as error:
                    with lock:
                        seen.given_up += 1
                        seen.said.append(f"teacher: {error}")

    with ExitStack() as stack, ThreadPoolExecutor(2 * each) as pool:
        desks = [stack.enter_context(opened(lab, page, folder / str(n))) for n in range(each)]
        first = desks[0]
        first.publish(SUMMARY, stage(0), WEB)
        publishers = [pool.submit(report, desk) for desk in desks]
        teachers = [pool.submit(teach, desk, wanted[n::each]) for n, desk in enumerate(desks)]
        try:
            for teacher in teachers:
                teacher.result()
        finally:
            done.set()
        for publisher in publishers:
            publisher.result()
        first.publish(SUMMARY, stage(9999), WEB)
        seen.seconds = time.monotonic() - begun
        _count(seen, first, wanted)
    return seen


def _count(seen: Crowd, desk: Desk, wanted: list[str]) -> None:
    """What has become of every line."""
    there = Counter(desk.text.split("\n"))
    seen.lost = [remark for remark in wanted if not there[remark]]
    seen.doubled = [remark for remark in wanted if there[remark] > 1]
    machine = there - Counter(wanted)
    own = Counter(fresh(SUMMARY, stage(9999), WEB).split("\n"))
    seen.stale, seen.missing = list((machine - own).elements()), list((own - machine).elements())
    history = list(desk.teacher.history(desk.page, limit=10_000))[::-1]
    seen.revisions = len(history)
    once: set[str] = set()
    for revision in history:
        now = set(revision.text.split("\n")) & set(wanted)
        seen.gone += sorted(once - now)
        once |= now
