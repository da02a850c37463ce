"""The stages: what each is about, what it waits for, and what it has to show. Nothing is run here."""

from __future__ import annotations

from labkit.checks import Check
from labkit.model.lab import unknown
from labkit.records import Record
from labkit.report.stages.assignment import matches

#: What a lab takes after its first rebuild (bytes): what it downloaded, and all that it keeps. Like the
#: stages' seconds measured on two processors, with Debian 12 and empty caches.
BYTES = (108_000_000, 1_800_000_000)


#: The keys of lab.toml on which an image and the container of one site depend, and the whole farm.
IMAGE = ("name", "sites", "host", "network", "rootfs", "dns", "containers")
FARM = (*IMAGE, "replicas", "proxy")
WIKI = ("name", "host", "wiki")


class Plan(Record):
    """One stage before it runs.

    ``after`` are the stages that it waits for; ``rows`` those of the assignment that it answers;
    ``required`` the checks without which it has not passed: a full name, or a beginning that ends
    in a dot and that at least one check must have. ``leaves``: something of it stays up on the
    machine, so that it has to run again once that was taken down. ``later`` are stages that it shows,
    too, without waiting for them: they begin when all others are over, and after them it runs again.
    One that ``yields`` leaves the processors to the others: fewer stages wait for what it computes.
    ``uses`` are the keys of lab.toml on which what it shows depends, '()' is all of them.
    ``builds`` are the root file systems that it needs ('' is the lab's own); ``seconds`` is what it takes
    when one of them has to be built, and when all are there (see :data:`BYTES`).
    """

    name: str
    title: str
    after: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    leaves: bool = True
    later: tuple[str, ...] = ()
    yields: bool = False
    uses: tuple[str, ...] = ()
    builds: tuple[str, ...] = ("",)
    seconds: tuple[float, float] = (0.0, 0.0)


STAGES: tuple[Plan, ...] = (
    Plan(
        name="01-wiki",
        title="The wiki",
        uses=WIKI,
        rows=("E1", "I1"),
        required=(
            "wiki.answers",
            "wiki.bot",
            "wiki.database.",
            "wiki.closed.",
            "wiki.page.",
            "wiki.shown",
        ),
        builds=(),
        seconds=(14, 8),
    ),
    Plan(
        name="02-rootfs",
        title="Root file systems and images",
        uses=IMAGE,
        rows=("E2", "E4", "I2", "R1", "R2", "R3", "R4"),
        required=(
            "image.steps.",
            "image.shared",
            "image.whole",
            "image.inspect.",
            "rootfs.reduced",
            "rootfs.docker-smaller",
            "rootfs.unneeded.",
        ),
        leaves=False,
        yields=True,
        builds=("", "debootstrap", "docker"),
        seconds=(58, 10),
    ),
    Plan(
        name="03-containers",
        title="Containers",
        uses=IMAGE,
        rows=("I3", "I4", "I5", "R5", "R6", "R7", "R8", "R9"),
        required=(
            "container.terminal",
            "container.path",
            "container.changes",
            "container.source.",
            "container.instances",
            "container.cgroups",
            "container.confined.",
        ),
        seconds=(31, 8),
    ),
    Plan(
        name="04-network",
        title="Network",
        uses=FARM,
        after=("03-containers",),
        rows=("E3", "I6", "R10"),
        required=("network.ports", "network.ping.", "network.ssh.", "network.mistake."),
        seconds=(9, 9),
    ),
    Plan(
        name="05-web",
        title="Web sites",
        uses=FARM,
        after=("04-network",),
        rows=("E4", "R11"),
        required=("farm.replica.", "site.", "browser."),
        seconds=(9, 9),
    ),
    Plan(
        name="06-balancer",
        title="Names and load balancing",
        uses=(*FARM, "traffic"),
        after=("05-web", "02-rootfs"),  # no measurement beside a build
        rows=("E5",),
        required=("dns.name.", "dns.reverse.", "proxy.site.", "traffic.", "failover.", "bench."),
        seconds=(22, 22),
    ),
    Plan(
        name="07-report",
        title="The report",
        uses=WIKI,
        after=("01-wiki", "02-rootfs", "03-containers", "04-network", "05-web", "06-balancer"),
        rows=("R12",),
        required=(
            "publish.",
        ),  # alone, before the other stages, its table says so and it is published
        leaves=False,
        later=("08-smallest",),
        builds=(),
        seconds=(8, 8),
    ),
    Plan(
        name="08-smallest",
        title="The smallest root file system",
        uses=IMAGE,
        rows=("I2", "R3", "R4"),
        required=("rootfs.limit.", "rootfs.slim-smaller", "rootfs.serving-smaller", "shrink."),
        leaves=False,
        yields=True,
        builds=("smallest",),
        seconds=(200, 10),
    ),
)


def plan(name: str) -> Plan:
    """The stage of that name; raises :class:`ConfigError` that names the nearest."""
    known = {item.name: item for item in STAGES}
    if name not in known:
        raise unknown(name, known, "a stage")
    return known[name]


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
