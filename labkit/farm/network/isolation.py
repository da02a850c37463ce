"""What the lab's tables come to, as a check and a table."""

from __future__ import annotations

from labkit.checks import Check
from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.farm.network import firewall, isolation_probe
from labkit.farm.network.firewall_rules import COUNTERS
from labkit.model.lab import Lab

EXPECTED = "replicas are kept from the host, from each other and from what is beyond"


def check(lab: Lab) -> Check:
    """Whether the lab's tables are in force as the Lab says, and refuse what the replicas try; a kernel that has
    none is told, and no failure."""
    facts, found = firewall.facts(lab), firewall.look(lab)
    lacking = found.lacking if found else ""
    differing = [f"{fact}: {seen}" for fact, seen in (facts or {}).items() if firewall.wanted(lab)[fact] != seen]  # fmt: skip
    if facts is None:
        differing = ["there are no such tables"]
    if lacking or differing:
        holds = bool(lacking)
        seen = f"nobody is kept from anything: {lacking}" if lacking else "; ".join(differing)
    else:
        trial = isolation_probe.out(lab)
        holds = trial.holds
        seen = "; ".join((*trial.reached, *trial.uncounted)) or _refused(trial)
    return Check(
        name="network.isolation",
        expected=EXPECTED,
        seen=seen,
        holds=holds,
        again=firewall.again(lab),
    )


def _refused(trial: isolation_probe.Trial) -> str:
    told = ", ".join(
        f"{number} {isolation_probe.WORDS[name]}" for name, number in trial.sent.items()
    )
    number = counted(sum(trial.sent.values()), "packet")
    return f"each of {number} sent by them to try it was refused and counted: {told}"


def table(lab: Lab) -> Table:
    """What was refused so far, a row for each counter."""
    found = firewall.counts(lab)
    rows: list[dict[str, Cell]] = [
        {"counter": name, "packets": found.get(name), "what is refused": what}
        for name, what in COUNTERS.items()
    ]
    return Table.of("refused", "What replicas were refused by the lab's tables", rows)
