"""The lab's tables made, looked at and mended, each as a whole: one transaction of the kernel's.

The number of the last change of the namespace's packet filter is kept. As long as it is the same, nothing was
changed, and no program is started to see it; else what nft(8) lists is held against what it is to list.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from labkit.core import firewall_tables, run
from labkit.core.files import text_of, write_atomically
from labkit.core.journal import Journal
from labkit.errors import CommandError, FarmError, LabkitError, StateError, excerpt
from labkit.farm.network import endpoint, firewall_rules, nft_listing
from labkit.farm.network.firewall_rules import Rules
from labkit.farm.network.netns import inside
from labkit.kernel import netns as namespaces
from labkit.kernel import nftables
from labkit.model.lab import Lab
from labkit.model.resources import fingerprint, listed
from labkit.records import Record

#: The one fixed shell text: loads the rules of standard input and lists the tables of that name.
_LISTED = 'nft -f - && nft -s list table bridge "$0" && nft -s list table inet "$0"'
#: What is said of a kernel that cannot keep anybody apart.
LACKING = "this kernel has no nftables"


class Made(Record):
    """What was made: the namespace's number, that of the change after it, the rules, and (once that was
    asked) what nft lists of each family's table; ``lacking`` is why nothing could be."""

    namespace: int
    generation: int
    rules: Rules
    listed: dict[str, str]
    lacking: str = ""


class Seen(Record):
    """The tables as they are: ``difference`` says what a hand did to them ('' for nothing), ``lacking`` why there
    can be none."""

    rules: Rules | None
    difference: str = ""
    lacking: str = ""


def wanted(lab: Lab) -> dict[str, str]:
    """What holds of the tables when they are as the Lab says: facts by name. Pure."""
    return {"rules": "in force", **_told(firewall_rules.wanted(lab))}


def facts(lab: Lab) -> dict[str, str] | None:
    """The same facts as they are seen now; None without a table, and none of them where there can be none."""
    found = look(lab)
    if found is None or found.lacking:
        return None if found is None else {}
    return {
        "rules": found.difference or "in force",
        **(_told(found.rules) if found.rules else {}),
    }


def differs(lab: Lab, seen: Mapping[str, str] | None) -> bool:
    """Whether there are tables, and others than the Lab says: they may refuse what it needs. Pure."""
    asked = wanted(lab)
    return seen is not None and any(asked[fact] != value for fact, value in seen.items())


def look(lab: Lab) -> Seen | None:
    """The lab's own tables as they are now; None when there are none."""
    if lab.netns and not namespaces.stands(lab.netns):
        return None
    made, (here, now) = _made(lab), inside(lab.netns, _where)
    made = made if made and made.namespace == here else None
    if made and made.lacking:
        return Seen(rules=None, lacking=made.lacking)
    if now is None or not _owned(lab):
        return None
    if made and made.generation == now:
        return Seen(rules=made.rules)
    return _compared(lab, made, now)


def _compared(lab: Lab, made: Made | None, now: int) -> Seen | None:
    """The tables as nft lists them now, beside what it listed when they were made."""
    found = _listed(lab)
    if not found:
        return None
    if made is None:
        return Seen(rules=None, difference="unknown: the file that describes them is gone")
    known = made.listed or _expected(lab, made.rules)
    if found != known:
        return Seen(rules=made.rules, difference=_difference(known, found))
    with suppress(OSError):  # who only looks may have no right to it
        _keep(lab, made.model_copy(update={"generation": now, "listed": known}))
    return Seen(rules=made.rules)


def _expected(lab: Lab, given: Rules) -> dict[str, str]:
    """What nft lists of tables with these rules: asked where nobody has changed them, in a namespace that ends
    with the program."""
    name = firewall_tables.name_of(lab)
    words = ["unshare", "--net", "--", "sh", "-c", _LISTED, name]
    output = run.run(words, stdin=firewall_rules.text(name, given)).stdout
    first, mark, second = output.partition("table inet ")
    return {"bridge": first, "inet": mark + second}


def widen(lab: Lab) -> bool:
    """What the Lab asks for is allowed, and what was before still is; whether that was to be done.

    The caller holds the lab's ``farm`` lock, and the host's side stands.
    """
    asked, found = firewall_rules.wanted(lab), look(lab)
    return _install(
        lab, firewall_rules.both(found.rules, asked) if found and found.rules else asked, found
    )


def settle(lab: Lab) -> bool:
    """What the Lab asks for is allowed, and nothing else; whether that was to be done."""
    return _install(lab, firewall_rules.wanted(lab), look(lab))


def counts(lab: Lab) -> Mapping[str, int]:
    """How many packets were refused, by the counters of :data:`labkit.farm.network.firewall_rules.COUNTERS`."""
    found: dict[str, int] = {}
    for family in firewall_tables.FAMILIES if run.which("nft") else ():
        words = ["nft", "-j", "list", "table", family, firewall_tables.name_of(lab)]
        found |= nft_listing.counters(run.run(words, netns=lab.netns, ok=(0, 1)).stdout)
    return found


def blame(lab: Lab, port: int) -> str:
    """Which chains of the machine's own judge what replicas send to a port of the host, and how to let it in;
    '' without one. Its tables are only read; no rule of the lab's can accept what another table drops."""
    words = ["nft", "-j", "list", "chains"]
    output = run.run(words, netns=lab.netns, ok=range(256)).stdout if run.which("nft") else ""
    rule = f'iifname "{lab.bridge}" meta l4proto {{ tcp, udp }} th dport {port} accept'
    said = []
    for family, table, name, policy in nft_listing.input_chains(
        output, firewall_tables.name_of(lab)
    ):
        allow = endpoint.again(lab, f"nft 'insert rule {family} {table} {name} {rule}'")
        said.append(
            f"the machine's packet filter stands between (chain {name} of table {family} {table}, "
            f"policy {policy}); to let it in: {allow}"
        )
    return "; ".join(said)


def again(lab: Lab) -> str:
    """The command that shows the lab's tables."""
    commands = (
        f"nft list table {family} {firewall_tables.name_of(lab)}"
        for family in firewall_tables.FAMILIES
    )
    return "; ".join(endpoint.again(lab, command) for command in commands)


def _install(lab: Lab, asked: Rules, found: Seen | None) -> bool:
    if found and (found.lacking or (found.rules == asked and not found.difference)):
        return False
    where, now = inside(lab.netns, _where)
    new = Made(namespace=where, generation=now or 0, rules=asked, listed={})
    folder = _file(lab).parent
    Journal.of(lab).intend("folder", path=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    if now is None:
        _keep(lab, new.model_copy(update={"lacking": LACKING}))
        return False
    run.require("nft")
    _refuse_foreign(lab)
    Journal.of(lab).intend("table", name=firewall_tables.name_of(lab), netns=lab.host.netns)
    if lacking := _load(lab, asked):
        _keep(lab, new.model_copy(update={"lacking": lacking}))
        return False
    _, now = inside(lab.netns, _where)
    _keep(lab, new.model_copy(update={"generation": now or 0}))
    return True


def _load(lab: Lab, asked: Rules) -> str:
    """The rules are in force; why this kernel cannot have them ('' when it can)."""
    text = firewall_rules.text(firewall_tables.name_of(lab), asked)
    try:
        run.run(["nft", "-f", "-"], stdin=text, netns=lab.netns)
    except CommandError as error:
        if error.status < 0:  # it was killed, or hung: nothing was refused
            raise
        if lacking := impossible():
            return lacking
        raise FarmError(
            f"table {firewall_tables.name_of(lab)}",
            f"nft refuses it: {excerpt(error.stderr)}",
            "end what changes the same tables, and call again",
            again(lab),
            code="farm.firewall",
        ) from None
    return ""


def impossible() -> str:
    """Why such tables cannot be made on this machine, '' when they can: tried in a namespace that ends with it."""
    if inside(None, nftables.generation) is None:
        return LACKING
    text = firewall_rules.text("labkit-trial", firewall_rules.wanted(Lab()))
    try:
        run.run(["unshare", "--net", "--", "nft", "-f", "-"], stdin=text)
    except LabkitError as error:
        return f"this kernel's nftables lacks something: {excerpt(' '.join(error.reason.split()))}"
    return ""


def _refuse_foreign(lab: Lab) -> None:
    """Raises :class:`StateError` for tables of the lab's name that labkit did not make."""
    name = firewall_tables.name_of(lab)
    found = [] if _owned(lab) else inside(lab.netns, _standing, name)
    if not found:
        return
    raise StateError(
        f"nftables' {' and '.join(found)} table {name}",
        "exists already and labkit did not make it for this lab",
        "choose another lab name (lab.toml: name), or remove the table yourself",
        again(lab),
        code="state.table-taken",
    )


def _listed(lab: Lab) -> dict[str, str]:
    """What nft lists of the tables of the lab's name, by family, without what they count."""
    found = {}
    for family in firewall_tables.FAMILIES if run.which("nft") else ():
        words = ["nft", "-s", "list", "table", family, firewall_tables.name_of(lab)]
        done = run.run(words, netns=lab.netns, ok=(0, 1))
        if done.status == 0:
            found[family] = done.stdout
    return found


def _difference(known: Mapping[str, str], found: Mapping[str, str]) -> str:
    gone = [family for family in known if family not in found]
    if gone:
        return f"changed by hand: the table of family {gone[0]} is gone"
    told = (nft_listing.told(text, found[family]) for family, text in known.items())
    return f"changed by hand: {'; '.join(filter(None, told))}"


def _owned(lab: Lab) -> bool:
    return Journal.of(lab).owns("table", name=firewall_tables.name_of(lab), netns=lab.host.netns)


def _standing(name: str) -> list[str]:
    """The families of which the calling thread's namespace has a table of that name."""
    return [family for family in firewall_tables.FAMILIES if nftables.stands(family, name)]


def _where() -> tuple[int, int | None]:
    """The number of the namespace that the calling thread is in, and of its last change."""
    return nftables.cookie(), nftables.generation()


def _told(given: Rules) -> dict[str, str]:
    """What the rules are made of, in facts; their text whatever the order of the ports."""
    ends = tuple(sorted(given.ends, key=lambda end: (end.link, end.address)))
    gateways = tuple(sorted(given.gateways))
    plain = given.model_copy(update={"ends": ends, "gateways": gateways})
    return {
        "host": listed(gateways),
        "replicas": str(len(ends)),
        "configuration": fingerprint(firewall_rules.text("", plain)),
    }


def _file(lab: Lab) -> Path:
    return lab.run_dir / "isolation" / "tables.json"


def _made(lab: Lab) -> Made | None:
    text = text_of(_file(lab))
    try:
        return Made.model_validate_json(text) if text else None
    except ValidationError:
        return None


def _keep(lab: Lab, made: Made) -> None:
    write_atomically(_file(lab), made.model_dump_json())
