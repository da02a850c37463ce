"""What the assignment asks for, and whether it is met: its rows, and the tasks of its closing table. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from labkit.checks import Check
from labkit.records import Record

#: ``met``: all that is asked for was checked and holds. ``in part``: some of it. ``not met``: none, or there are
#: fewer things than asked for. ``not run``: nothing was checked. ``stale``: met, by a lab of before.
State = Literal["met", "in part", "not met", "not run", "stale"]
ICONS: Mapping[str, str] = {
    "met": "✔", "in part": "✘", "not met": "✘", "not run": "–", "stale": "↻",
}  # fmt: skip

#: As many failing checks are named.
NAMED = 3
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

#: The checks without which a row is not met: full names, and beginnings that end in a dot (:func:`matches`).
NEEDS: Mapping[str, tuple[str, ...]] = {
    "E1": ("wiki.answers", "wiki.page.", "wiki.shown"),
    "E2": ("image.steps.", "image.whole", "image.shared", "image.inspect."),
    "E3": ("network.ports", "network.namespace.", "network.ping."),
    "E4": ("image.web", "site.page."),
    "E5": ("dns.name.", "dns.reverse.", "proxy.site.", "proxy.worker.", "traffic.", "failover."),
    "I1": ("wiki.database.",),
    "I2": ("rootfs.reduced",),
    "I3": ("container.cgroups",),
    "I4": ("container.path",),
    "I5": ("container.source.",),
    "I6": ("network.peers", "network.namespace."),
    "R1": ("image.steps.",),
    "R2": ("rootfs.docker-smaller",),
    "R3": ("rootfs.docker-smaller",),
    "R4": ("rootfs.unneeded.",),
    "R5": ("container.terminal",),
    "R6": ("container.foreground", "container.detached"),
    "R7": ("container.instances",),
    "R8": ("container.changes", "container.confined."),
    "R9": ("container.listing.",),
    "R10": ("network.addresses", "network.ping.", "network.ssh."),
    "R11": ("farm.replica.", "site.page.", "site.told-apart", "browser."),
    "R12": ("report.closing",),
}


class Number(Record):
    """How many different checks have to hold whose names begin with ``check`` and end with ``end``; ``what`` is what
    each stands for. With ``each``: how many sites that have so many of them, one for each replica."""

    check: str
    least: int
    what: str
    end: str = ""
    each: int = 0

    def count(self, names: Iterable[str]) -> int:
        """How many there are among these names of checks."""
        own = {name for name in names if name.startswith(self.check) and name.endswith(self.end)}
        if not self.each:
            return len(own)
        sites = Counter(name.rpartition("-")[0] for name in own)
        return sum(number >= self.each for number in sites.values())


CONTAINERS = Number(check="farm.replica.", least=6, what="containers")
OF_TWO = Number(check="farm.replica.", least=3, what="sites on two containers", each=2)
PAGES = Number(check="site.page.", least=3, what="different pages")
SEEN = Number(check="browser.", least=6, what="pages seen in a browser")
BALANCED = Number(check="proxy.site.", least=3, what="balanced sites")
SHARED = Number(
    check="proxy.worker.", least=3, what="sites on two servers behind the balancer", each=2
)
DIVIDED = Number(
    check="traffic.", end=".distribution", least=3, what="sites whose requests are divided"
)
#: The rows that ask for a number of things.
NUMBERS: Mapping[str, tuple[Number, ...]] = {
    "E5": (BALANCED, SHARED, DIVIDED),
    "R11": (CONTAINERS, OF_TWO, PAGES, SEEN),
}


class Task(Record):
    """A line of the closing table: the checks with these names or beginnings decide its state. Those in ``needs``
    have to be there (none given: all), and ``numbers`` of them have to hold."""

    name: str
    checks: tuple[str, ...]
    needs: tuple[str, ...] = ()
    numbers: tuple[Number, ...] = ()


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
    Task(name="Run the farm's containers", checks=("farm.",), numbers=(CONTAINERS, OF_TWO)),
    Task(name="Serve the web sites", checks=("site.", "browser."), numbers=(PAGES, SEEN)),
    Task(name="Name the sites by DNS", checks=("dns.",)),
    Task(
        name="Balance the load",
        checks=("proxy.", "balance.", "traffic.", "compare.", "failover.", "bench."),
        needs=("proxy.site.", "proxy.worker.", "traffic.", "failover."),
        numbers=(BALANCED, SHARED, DIVIDED),
    ),
)  # fmt: skip


class Judged(Record):
    """The state of what is asked for, why it is not ``met``, how many of its checks hold, and of how many."""

    state: State
    why: tuple[str, ...]
    held: int
    checks: int

    @property
    def icon(self) -> str:
        """A sign for the state."""
        return ICONS[self.state]

    @property
    def told(self) -> str:
        """The state and why it is so: ``not met: 1 of 6 containers``."""
        return ": ".join([self.state, *([", ".join(self.why)] if self.why else [])])


def matches(check: str, wanted: str) -> bool:
    """Whether a check's name is the wanted one, or begins with the wanted beginning (``net.ping.``)."""
    return check.startswith(wanted) if wanted.endswith(".") else check == wanted


def judge(
    checks: Sequence[Check],
    needs: Sequence[str],
    numbers: Sequence[Number] = (),
    *,
    stale: bool = False,
) -> Judged:
    """What these checks make of something that is asked for.

    :param checks: those that belong to it.
    :param needs: names and beginnings of those that have to be there.
    :param stale: some of them are of a lab of before.
    """
    made = {check.name for check in checks}
    held = sum(check.holds for check in checks)
    failing = {check.name for check in checks if not check.holds}
    missing = [wanted for wanted in needs if not any(matches(name, wanted) for name in made)]
    counts = [(number, number.count(made - failing), number.count(made)) for number in numbers]
    counts = [item for item in counts if item[2] or not missing]
    small = any(there < number.least for number, _, there in counts)
    why = (
        *(
            f"{count} of {number.least} {number.what}"
            for number, count, _ in counts
            if count < number.least
        ),
        *(f"no check {wanted}{'*' if wanted.endswith('.') else ''} was made" for wanted in missing),
        *([f"failing: {_some(sorted(failing))}"] if failing else []),
    )
    if not checks:
        return Judged(state="not run", why=(), held=0, checks=0)
    state: State = "stale" if stale else "met"
    if failing or missing:
        state = "in part"
    if small or not held:
        state = "not met"
    return Judged(state=state, why=why, held=held, checks=len(checks))


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join([*names[:NAMED], *([f"{more} more"] if more > 0 else [])])
