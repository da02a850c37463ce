"""The stages: what each is about, what it waits for, and what it has to show. Nothing is run here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from labkit.checks import Check
from labkit.lab import unknown
from labkit.result import Record

#: The assignment's rows in a few words: what it asks for (E), hints at (I) and asks again (R).
ROWS: Mapping[str, str] = {
    "E1": "A local wiki with the assignment in it and the report's structure prepared",
    "E2": "An OCI image and a bundle by umoci, with a working root file system",
    "E3": "The containers on the network: interfaces in them, their peers in a virtual switch",
    "E4": "apache2 in the root file systems",
    "E5": "A local DNS; three sites on two servers each behind a load balancer",
    "I1": "The rights of the wiki's database account",
    "I2": "The root file system's size against a base Docker image's, and how to reduce it",
    "I3": "cgroups without systemd",
    "I4": "PATH in the container's configuration",
    "I5": "The runtime configuration comes from the image",
    "I6": "veth pairs, named and addressed in the container's namespace",
    "R1": "How image layout and bundle relate",
    "R2": "The root file system compared with a base Docker image's",
    "R3": "How much smaller, in numbers",
    "R4": "Packages that the container may not need",
    "R5": "terminal: false when detached",
    "R6": "Foreground and detached",
    "R7": "Several instances started from one terminal, each waiting",
    "R8": "Every change to config.json; several containers, not several processes",
    "R9": "What a container in the background can show",
    "R10": "Addresses in one network, ping both ways, ssh into a container",
    "R11": "Six containers with web servers, three pages, all seen in a browser",
    "R12": "The closing table: task, state, comment",
}


class Number(Record):
    """How many different checks of a name (:func:`matches`) have to hold; ``what`` is what each stands for."""

    check: str
    least: int
    what: str


CONTAINERS = Number(check="farm.replica.", least=6, what="containers")
PAGES = Number(check="site.page.", least=3, what="different pages")
SEEN = Number(check="browser.", least=6, what="pages seen in a browser")
BALANCED = Number(check="proxy.site.", least=3, what="balanced sites")
WORKERS = Number(check="proxy.worker.", least=6, what="servers behind the balancer")
#: The rows that ask for a number of things.
NUMBERS: Mapping[str, tuple[Number, ...]] = {
    "E5": (BALANCED, WORKERS),
    "R11": (CONTAINERS, PAGES, SEEN),
}

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


class Task(Record):
    """A line of the closing table: the checks with these names or beginnings decide its state, and ``numbers``
    of them have to hold."""

    name: str
    checks: tuple[str, ...]
    numbers: tuple[Number, ...] = ()


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

#: The closing table's tasks, in the order in which the assignment meets them.
TASKS: tuple[Task, ...] = (
    Task(
        name="Install the wiki",
        checks=(
            "wiki.answers", "wiki.loopback", "wiki.database.", "wiki.accounts", "wiki.bot",
            "wiki.closed.",
        ),
    ),
    Task(name="Fill the wiki", checks=("wiki.page.", "wiki.shown")),
    Task(name="Make the image", checks=("image.",)),
    Task(name="Make its root file system", checks=("rootfs.",)),
    Task(name="Start containers detached", checks=("container.",)),
    Task(name="Connect the network", checks=("network.",)),
    Task(name="Run the farm's containers", checks=("farm.",), numbers=(CONTAINERS,)),
    Task(name="Serve the web sites", checks=("site.", "browser."), numbers=(PAGES, SEEN)),
    Task(name="Name the sites by DNS", checks=("dns.",)),
    Task(
        name="Balance the load",
        checks=("proxy.", "balance.", "traffic.", "compare.", "failover.", "bench."),
        numbers=(BALANCED, WORKERS),
    ),
)  # fmt: skip


def plan(name: str) -> Plan:
    """The stage of that name; raises :class:`ConfigError` that names the nearest."""
    known = {item.name: item for item in STAGES}
    if name not in known:
        raise unknown(name, known, "a stage")
    return known[name]


def matches(check: str, wanted: str) -> bool:
    """Whether a check's name is the wanted one, or begins with the wanted beginning (``net.ping.``)."""
    return check.startswith(wanted) if wanted.endswith(".") else check == wanted


def lacking(numbers: tuple[Number, ...], checks: Iterable[Check]) -> tuple[str, ...]:
    """Of what there are fewer than asked for, in words: ``1 of 6 containers``."""
    held = {check.name for check in checks if check.holds}
    counts = ((sum(matches(name, n.check) for name in held), n) for n in numbers)
    return tuple(f"{count} of {n.least} {n.what}" for count, n in counts if count < n.least)


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
