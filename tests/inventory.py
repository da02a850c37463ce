"""All that a machine has of what labkit could make on it, taken before and after, and what differs between.

It is whole where nobody else works: in namespaces of one's own (:mod:`tests.own_machine`).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from labkit.core import run
from tests import proc

#: By kind, what there is: each thing's name, and what is so of it.
Inventory = Mapping[str, Mapping[str, str]]
#: Settings of the kernel that a farm could touch.
SETTINGS = ("net/ipv4", "net/ipv6/conf/all", "net/ipv6/conf/default", "net/bridge", "net/netfilter")
#: Counters among them, which change by themselves,
#: and a key that the kernel draws for the first server.
COUNTERS = ("nf_conntrack_count", "fib_multipath_hash_seed", "tcp_fastopen_key")
#: What of a network interface changes by itself, or is new in each that is made.
PASSING = frozenset(("ifindex", "stats", "stats64", "valid_life_time", "preferred_life_time"))


def take(*folders: Path, groups: str = "labkit") -> Inventory:
    """What there is now; ``folders`` with all that is below them, control groups by a part of their names."""
    return {
        "process": dict(processes()),
        "listener": dict(listeners()),
        "mount": dict(mounts()),
        "namespace": {path.name: "" for path in Path("/run/netns").glob("*")},
        **network(),
        "setting": dict(settings()),
        "control group": {str(path): "" for path in control_groups(groups)},
        "runC container": {str(path): "" for path in Path("/run").glob("runc*/*")},
        "file": dict(files(folders)),
        "file of /etc": dict(files([Path("/etc")])),
        "temporary file": {
            str(path): "" for place in ("/tmp", "/var/tmp") for path in Path(place).iterdir()
        },
    }


def difference(before: Inventory, after: Inventory) -> tuple[str, ...]:
    """A line for each thing that is new (``+``), gone (``-``) or another than before (``~``). Pure."""
    found = []
    for kind in dict.fromkeys((*before, *after)):
        old, new = before.get(kind, {}), after.get(kind, {})
        found += [f"+ {kind} {name} {new[name]}".rstrip() for name in new if name not in old]
        found += [f"- {kind} {name} {old[name]}".rstrip() for name in old if name not in new]
        found += [
            f"~ {kind} {name}: {old[name]} -> {new[name]}"
            for name in old
            if name in new and old[name] != new[name]
        ]
    return tuple(found)


def processes() -> Iterator[tuple[str, str]]:
    """Every process but the caller's own: its number and start are nobody else's; kernel threads and those
    that have ended are none."""
    lines = dict(proc.texts("cmdline"))
    for pid, text in proc.texts("stat"):
        words = lines.get(pid, "").split("\0")
        if words[0] and pid != os.getpid():
            yield f"{pid} started {text.rpartition(')')[2].split()[19]}", " ".join(words).strip()


def listeners() -> Iterator[tuple[str, str]]:
    """The sockets of this network namespace that take connections or datagrams (proc(5), /proc/net)."""
    for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        with suppress(FileNotFoundError):
            for line in Path("/proc/net", kind).read_text().splitlines()[1:]:
                _, place, _, state, *_ = line.split()
                if state in ("0A", "07"):
                    yield f"{kind} {place}", ""
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[3] == "00010000":  # __SO_ACCEPTCON
            yield f"unix {words[7]}", ""


def mounts() -> Iterator[tuple[str, str]]:
    """What is mounted where, the first one at a place first."""
    seen: dict[str, int] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        place = left.split()[4]
        seen[place] = seen.get(place, 0) + 1
        yield f"{place} ({seen[place]})", f"{left.split()[3]} {right}"


def network() -> dict[str, dict[str, str]]:
    """Interfaces, addresses, routes, rules and packet filters of this network namespace."""
    found = {}
    for kind, words in {
        "link": ["-details", "address"],
        "route": ["-4", "route", "show", "table", "all"],
        "IPv6 route": ["-6", "route", "show", "table", "all"],
        "rule": ["-4", "rule"],
        "IPv6 rule": ["-6", "rule"],
    }.items():
        found[kind] = _things(json.loads(run.run(["ip", "-json", *words]).stdout or "[]"))
    found["packet filter"] = dict(filters())
    return found


def filters() -> Iterator[tuple[str, str]]:
    """What nftables has, where its program is, and the tables of the older packet filter."""
    if run.which("nft"):
        listed = json.loads(run.run(["nft", "-j", "list", "ruleset"], ok=range(256)).stdout or "{}")
        for item in listed.get("nftables", []):
            for kind, what in item.items():
                if kind != "metainfo":
                    plain = {name: value for name, value in what.items() if name != "handle"}
                    yield f"{kind} {json.dumps(plain, sort_keys=True)}", ""
    for name in ("ip", "ip6", "arp"):
        with suppress(OSError):
            for table in Path(f"/proc/net/{name}_tables_names").read_text().split():
                yield f"{name} table {table}", ""


def _things(found: list[dict[str, Any]]) -> dict[str, str]:
    texts = (json.dumps(_lasting(item), sort_keys=True) for item in found)
    return {f"{item.get('ifname', '')} {text}".strip(): "" for item, text in zip(found, texts, strict=True)}  # fmt: skip


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(item) for name, item in value.items() if name not in PASSING}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def settings() -> Iterator[tuple[str, str]]:
    """The kernel's settings that a farm could touch (sysctl(8))."""
    for place in SETTINGS:
        for folder, _, names in os.walk(f"/proc/sys/{place}"):
            if "/conf/" in f"{folder}/" and Path(folder).name not in ("conf", "all", "default"):
                continue  # an interface's own
            for name in sorted(set(names) - set(COUNTERS)):
                with suppress(OSError):
                    yield f"{folder}/{name}", Path(folder, name).read_text(errors="replace").strip()


def control_groups(part: str) -> Iterator[Path]:
    """The control groups with that part in their names, in every hierarchy."""
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        yield from (Path(folder, name) for name in names if part in name)


def files(folders: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Every file and folder below (other file systems are mounts' business): its kind and rights, and what
    is in it; of a lock, whose content is its last holder's number, the name alone."""
    for top in folders:
        if top.exists():
            yield str(top), _said(top)
        for folder, names, others in os.walk(top):
            names[:] = [name for name in names if not os.path.ismount(f"{folder}/{name}")]
            yield from ((f"{folder}/{name}", _said(Path(folder, name))) for name in names + others)


def _said(path: Path) -> str:
    try:
        seen = path.lstat()
        rights = f"{stat.filemode(seen.st_mode)} {seen.st_uid}:{seen.st_gid}"
        if stat.S_ISLNK(seen.st_mode):
            return f"{rights} -> {path.readlink()}"
        if not stat.S_ISREG(seen.st_mode) or path.suffix == ".lock":
            return rights
        return f"{rights} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    except OSError as error:  # gone meanwhile, or a namespace's name
        return str(error.strerror)


def settled(
    before: Inventory,
    again: Callable[[], Inventory],
    may_be: Collection[str] = (),
    looks: int = 20,
) -> tuple[str, ...]:
    """The difference, apart from ``may_be``; a killed process takes a moment to be gone."""
    found: tuple[str, ...] = ()
    for _ in range(looks):
        found = tuple(line for line in difference(before, again()) if line not in may_be)
        if not found:
            break
        if any(not line.startswith(("+ process", "+ listener")) for line in found):
            break
    return found
