"""The questions, to whom each is put, and what became of them."""

from __future__ import annotations

import http.client
import shlex
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from labkit.checks import Check
from labkit.core import run
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.errors import LabkitError
from labkit.farm.containers import replica_files
from labkit.farm.images import actions as images
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.study import ending, given, login, naming, reload, rights, web
from labkit.farm.study.stand import Stand, Trial, standing
from labkit.model.lab import Lab
from labkit.records import Record

#: Puts all questions to an image once more; its containers do not outlive the answers.
AGAIN = (
    "from labkit import Lab; from labkit.farm.study import proof as survival; "
    'print(survival.prove(Lab.load(), "{}").table("survival").frame().to_string())'
)


class Probe(Record):
    """One question that was put to a container: what a server that does its job says, and what this
    one said; ``rows`` of the assignment, ``again`` a command that shows it."""

    name: str
    expected: str
    seen: str
    holds: bool
    seconds: float
    rows: tuple[str, ...] = ()
    again: str = ""


@dataclass(frozen=True)
class Question:
    """What is asked of a container, and the answer of one that does its job."""

    name: str
    expected: Callable[[Stand], str]
    ask: Callable[[Stand], str]
    rows: tuple[str, ...] = ("E4",)


@dataclass(frozen=True)
class Role:
    """A container and the questions to it, in their order; ``around`` is what stands meanwhile."""

    trial: Trial
    questions: tuple[Question, ...]
    around: Callable[[Stand], AbstractContextManager[object]] = lambda _: nullcontext()


def probe(lab: Lab, image: Unpacked | str) -> tuple[Probe, ...]:
    """Every question is put to throw-away containers on the image (unpacked, or its tag), and nothing is
    left of them. A question that fails keeps no other from being asked.

    The sites' own files are laid over the image; its layers are read alone. Waits for the lab's ``farm``
    lock. Raises what :func:`labkit.farm.images.actions.unpacked` raises for a tag.
    """
    unpacked = images.unpacked(lab, image) if isinstance(image, str) else image
    parts = roles(lab)
    replica_files.keys(lab)
    with (
        lock(lab.run_dir, "farm"),
        standing(lab, unpacked, [role.trial for role in parts]) as stands,
    ):
        pairs = list(zip(parts, stands, strict=True))  # they wait more than they work
        answers = run.spread(lambda pair: _play(*pair), pairs, workers=len(pairs))
        last = _probe(
            Question("writes", _always(rights.UNWRITTEN), lambda _: rights.written(stands)),
            stands[0],
        )
    return (*(item for part in answers for item in part), last)


@action("survival.prove")
def prove(lab: Lab, tag: str = "web") -> Outcome[tuple[Probe, ...]]:
    """The image of that tag does everything that is asked of a root file system that serves the sites."""
    probes = probe(lab, tag)
    found = checks(tag, probes)
    lost = [item.name for item in probes if not item.holds]
    return Outcome(
        value=probes,
        subject=tag,
        summary=f"{tag} does {len(probes) - len(lost)} of {counted(len(probes), 'thing')} that serving "
        f"needs{'; not ' if lost else ''}{', '.join(lost)}.",
        checks=found,
        tables=(table(tag, probes),),
    )


def checks(subject: str, probes: Iterable[Probe]) -> tuple[Check, ...]:
    """The probes as checks of the thing that was tried. Pure."""
    return tuple(
        Check(
            name=f"survival.{subject}.{item.name}",
            expected=item.expected,
            seen=item.seen,
            holds=item.holds,
            rows=item.rows,
            again=item.again or shlex.join(("python", "-c", AGAIN.format(subject))),
        )
        for item in probes
    )


def table(subject: str, probes: Iterable[Probe]) -> Table:
    """The probes as a table. Pure."""
    rows: list[dict[str, Cell]] = [
        {"question": i.name, "holds": i.holds, "seen": i.seen, "time": i.seconds} for i in probes
    ]
    title = f"What was asked of {subject}, and what it answered"
    return Table.of("survival", title, rows, units={"time": "s"})


def roles(lab: Lab) -> tuple[Role, ...]:
    """The containers that are needed: one a site, and those that are named, privileged or stopped. Pure."""
    sites = [site.name for site in lab.sites]
    own: list[list[Question]] = [[_page(name)] for name in sites]
    for place, questions in enumerate((_SERVING, _ROTATION, _LOGIN)):
        own[place % len(own)] += questions
    first = sites[0]
    return (
        *(
            Role(Trial(name=f"page-{place}", site=name), tuple(questions))
            for place, (name, questions) in enumerate(zip(sites, own, strict=True), 1)
        ),
        Role(
            Trial(name="named", site=first, files=given.naming_files(lab)),
            tuple(_named(lab, by) for by in given.NAMES),
            naming.answering,
        ),
        Role(Trial(name="privileged", site=first, privileged=True), (_users("root", True),)),
        Role(Trial(name="stopped", site=first, foreground=True), (_STOP,)),
        Role(Trial(name="terminated", site=first, foreground=True), (_TERMINATE,)),
    )


def _always(text: str) -> Callable[[Stand], str]:
    return lambda _: text


def _page(site: str) -> Question:
    return Question(f"page.{site}", web.page_expected, web.page, ("R11", "E4"))


def _named(lab: Lab, by: str) -> Question:
    expected = f"{given.host_name(lab, by)} is resolved"
    return Question(f"names.{by}", _always(expected), lambda stand: web.named(stand, by))


def _users(name: str, privileged: bool) -> Question:
    return Question(f"users.{name}", _always(rights.USERS[privileged]), rights.users)


_SERVING = (
    Question("not-found", _always("404 Not Found, and then 200"), web.not_found),
    Question("failing", _always("500 Internal Server Error, and then 200"), web.failing),
    _users("www-data", False),
    Question("reload", _always(reload.REREAD), reload.reread),
)
_ROTATION = (Question("rotation", _always(reload.ROTATED), reload.rotated),)
_LOGIN = (
    Question("ssh", login.session_expected, login.session, ("R10",)),
    Question("ssh.stranger", _always(login.REFUSED), login.stranger, ("R10",)),
)
_STOP = Question("stop", _always(ending.STOPPED), ending.stopped)
_TERMINATE = Question("terminate", _always(ending.TERMINATED), ending.terminated)


def _play(role: Role, stand: Stand) -> list[Probe]:
    """The role's questions, one after the other; of a container that cannot begin, its error for each."""
    with role.around(stand):
        try:
            stand.begin()
        except LabkitError as error:
            reason = error.reason

            def unable(_: Stand) -> str:
                return reason

            return [
                _probe(Question(q.name, q.expected, unable, q.rows), stand) for q in role.questions
            ]
        return [_probe(question, stand) for question in role.questions]


def _probe(question: Question, stand: Stand) -> Probe:
    started = time.monotonic()
    expected, again = question.expected(stand), ""
    try:
        seen = question.ask(stand)
    except LabkitError as error:
        seen, again = error.reason, error.again
    except (OSError, http.client.HTTPException) as error:
        seen = f"{type(error).__name__}: {error}"
    return Probe(
        name=question.name,
        expected=expected,
        seen=seen,
        holds=seen == expected,
        seconds=round(time.monotonic() - started, 3),
        rows=question.rows,
        again=again,
    )
