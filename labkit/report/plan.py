"""The stages: what each is about, what it waits for, and what it has to show. Nothing is run here."""

from __future__ import annotations

from labkit.checks import Check
from labkit.lab import unknown
from labkit.result import Record

#: The assignment's rows: what it asks for (E), hints at (I) and asks again (R).
ROWS = (
    *(f"E{n}" for n in range(1, 6)), *(f"I{n}" for n in range(1, 7)), *(f"R{n}" for n in range(1, 13)),
)  # fmt: skip


class Plan(Record):
    """One stage before it runs.

    ``after`` are the stages that it waits for; ``rows`` those of the assignment that it answers;
    ``required`` the checks without which it has not passed: a full name, or a beginning that ends
    in a dot and that at least one check must have. ``leaves``: something of it stays up on the
    machine, so that it has to run again once that was taken down.
    """

    name: str
    title: str
    after: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    leaves: bool = True


class Task(Record):
    """A line of the closing table: the checks whose names begin so decide its state."""

    name: str
    stage: str
    checks: tuple[str, ...]


STAGES: tuple[Plan, ...] = (
    Plan(name="01-wiki", title="The wiki", rows=("E1", "I1")),
    Plan(
        name="02-rootfs",
        title="Root file systems and images",
        rows=("E2", "E4", "I2", "R1", "R2", "R3", "R4"),
        leaves=False,
    ),
    Plan(
        name="03-containers",
        title="Containers",
        rows=("I3", "I4", "I5", "R5", "R6", "R7", "R8", "R9"),
    ),
    Plan(name="04-network", title="Network", after=("03-containers",), rows=("E3", "I6", "R10")),
    Plan(name="05-web", title="Web sites", after=("04-network",), rows=("R11",)),
    Plan(
        name="06-balancer",
        title="Names and load balancing",
        after=("05-web", "02-rootfs"),  # no measurement beside a build
        rows=("E5",),
    ),
    Plan(
        name="07-report",
        title="The report",
        after=("01-wiki", "02-rootfs", "03-containers", "04-network", "05-web", "06-balancer"),
        rows=("R12",),
        leaves=False,
    ),
)

#: The closing table's tasks, in the order in which the assignment meets them.
TASKS: tuple[Task, ...] = ()


def plan(name: str) -> Plan:
    """The stage of that name; raises :class:`ConfigError` that names the nearest."""
    known = {item.name: item for item in STAGES}
    if name not in known:
        raise unknown(name, known, "a stage")
    return known[name]


def matches(check: str, wanted: str) -> bool:
    """Whether a check's name is the wanted one, or begins with the wanted beginning (``net.ping.``)."""
    return check.startswith(wanted) if wanted.endswith(".") else check == wanted


def problems(stage: Plan, checks: tuple[Check, ...]) -> tuple[str, ...]:
    """What keeps the stage from having passed: required checks and rows that are missing or fail."""
    found = []
    for wanted in stage.required:
        held = [check for check in checks if matches(check.name, wanted)]
        if not held:
            found.append(f"no check {wanted}{'*' if wanted.endswith('.') else ''} was made")
        found += [
            f"{check.name}: expected {check.expected}; seen {check.seen}"
            for check in held
            if not check.holds
        ]
    answered = {row for check in checks if check.holds for row in check.rows}
    found += [f"no check that holds answers row {row}" for row in stage.rows if row not in answered]
    return tuple(dict.fromkeys(found))
