"""What a lab guarantees on one machine, and what of that a cluster keeps: stated, and looked at from inside a task.

A guarantee is *kept*, *kept by the daemon's configuration* (the nodes' own settings, which labkit writes and cannot make), *weaker*
or *lost*. The first two are looked at: :data:`SCRIPT` runs in a task with a replica's own settings and tries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from labkit.display import human_bytes
from labkit.farm.containers import bundle, container
from labkit.model.lab import Lab
from labkit.records import Record

State = Literal["kept", "kept by the daemon's configuration", "weaker", "lost"]
#: Tries what a replica must not be able to do, with nothing but a shell, and writes ``word=value`` lines. The arguments:
#: the files that must not be readable, then ``--``, then addresses of other sites' replicas.
SCRIPT = r"""
say() { printf 'labkit:%s=%s\n' "$1" "$2"; }
able() { word=$1; shift; if "$@" >/run/apache2/said 2>&1; then say "$word" yes; else say "$word" no; fi; }
say uid "$(id -u)"
while read -r name value _; do
    case $name in CapEff:|CapBnd:|NoNewPrivs:|Seccomp:) say "${name%:}" "$value";; esac
done < /proc/self/status
read -r _ outside _ < /proc/self/uid_map; say outside-uid "$outside"
able root-writable touch /labkit-probe
able fifo mkfifo /run/apache2/fifo
able namespaces unshare --user true
if [ -e /sys/kernel ]; then say sysfs yes; else say sysfs no; fi
readable=0
while [ "$1" != -- ]; do
    if [ -f "$1" ] && [ -n "$(head -c 1 "$1" 2>/dev/null | od -An -c)" ]; then readable=$((readable + 1)); fi
    shift
done
shift
say masked-readable "$readable"
for file in memory.max memory/memory.limit_in_bytes pids.max pids/pids.max cpu.max cpu/cpu.cfs_quota_us; do
    [ -r "/sys/fs/cgroup/$file" ] && say "${file##*/}" "$(cat "/sys/fs/cgroup/$file")"
done
say files "$(ulimit -n)"
say log-kib "$(df -k /var/log/apache2 | tail -n 1 | { read -r _ size _; echo "$size"; })"
if grep -q '^[^[:space:]]*[[:space:]]00000000[[:space:]]' /proc/net/route; then say route-out yes; else say route-out no; fi
for address; do able "reach-$address" timeout 3 bash -c ": < /dev/tcp/$address/80"; done
say end yes
exec sleep 120  # an engine leaves the container of a task that has ended
"""
#: The last line that the script writes.
END = "labkit:end=yes"


class Inside(Record):
    """What :data:`SCRIPT` found, word by word."""

    found: Mapping[str, str]

    def says(self, word: str, value: str) -> bool:
        """Whether it found that value."""
        return self.found.get(word) == value

    def number(self, *words: str) -> int:
        """The first number under one of these words, -1 without one."""
        values = (self.found[word].split()[0] for word in words if self.found.get(word))
        return next((int(value) for value in values if value.isascii() and value.isdigit()), -1)

    @property
    def reached(self) -> tuple[str, ...]:
        """The addresses of other sites' replicas that it reached."""
        return tuple(word.removeprefix("reach-") for word, value in self.found.items() if word.startswith("reach-") and value == "yes")  # fmt: skip


@dataclass(frozen=True)
class Guarantee:
    """One guarantee: what it is about, what holds ``here`` (on one machine), and what becomes of it.

    ``state`` and ``why`` are for an engine that gives a service its own privileges, ``otherwise`` for one that does not ('' the
    same). ``look`` says what was found from inside and whether that is what holds here; None where nothing can be tried.
    """

    subject: str
    here: str
    state: State
    why: str
    look: Callable[[Inside], tuple[str, bool]] | None = None
    otherwise: State | None = None


def _word(word: str, value: str, text: str) -> Callable[[Inside], tuple[str, bool]]:
    return lambda inside: (text.format(inside.found.get(word, "nothing")), inside.says(word, value))


def _limit(most: int, *words: str) -> Callable[[Inside], tuple[str, bool]]:
    return lambda inside: (f"{inside.number(*words):,}", 0 < inside.number(*words) <= most)


def of(lab: Lab) -> tuple[Guarantee, ...]:
    """The guarantees of a lab's replicas, in the order of the table of confinement. Pure."""
    spec = container.replica_spec(lab, lab.farm[0])
    daemon: State = "kept by the daemon's configuration"
    return (
        Guarantee("user", "www-data", "kept", "User", _word("uid", str(spec.uid), "user {}")),
        Guarantee(
            "user namespace", "separate user ids", daemon, "userns-remap in daemon.json", lambda inside: (f"the machine's user {inside.found.get('outside-uid')} is root inside", not inside.says("outside-uid", "0")),
        ),
        Guarantee("capabilities", "none", "kept", "CapabilityDrop", _word("CapBnd", "0" * 16, "at most {}")),
        Guarantee("no new privileges", "yes", "kept", "Privileges.NoNewPrivileges, or no-new-privileges in daemon.json", _word("NoNewPrivs", "1", "NoNewPrivs {}"), daemon),
        Guarantee("system calls", "those that a replica needs", "kept", "Privileges.Seccomp, or seccomp-profile in daemon.json", lambda inside: (f"a call beyond them: {inside.found.get('fifo')}; a namespace: {inside.found.get('namespaces')}", inside.says("fifo", "no") and inside.says("namespaces", "no")), daemon),
        Guarantee("root file system", "read-only", "kept", "ReadOnly", _word("root-writable", "no", "writable: {}")),
        Guarantee("/sys", "absent", "weaker", "Docker mounts it read-only", _word("sysfs", "no", "there: {}")),
        Guarantee("what the kernel says of the machine", "covered", "weaker", "Docker covers fewer files", _word("masked-readable", "0", "{} of the covered files can be read")),
        Guarantee("memory", human_bytes(spec.memory), "kept", "Limits.MemoryBytes", _limit(spec.memory, "memory.max", "memory.limit_in_bytes")),
        Guarantee("processes", str(spec.pids), "kept", "Limits.Pids", _limit(spec.pids, "pids.max")),
        Guarantee("processors", f"{spec.processors:g}", "kept", "Limits.NanoCPUs", _limit(int(spec.processors * 100_000), "cpu.max", "cpu.cfs_quota_us")),
        Guarantee("what it writes", f"{lab.containers.written_mib} MiB in {lab.containers.written_files} files", "weaker", "the MiB are kept by memory of that size; the number of files is not limited", _limit(lab.containers.written_mib * 1024, "log-kib")),
        Guarantee("other sites' replicas", "not reached", "kept", "each site has a network of its own, which leads nowhere else", lambda inside: (f"reached: {', '.join(inside.reached) or 'none'}", not inside.reached)),
        Guarantee("replicas of the same site", "not reached", "lost", "they share their site's network"),
        Guarantee("the outside", "not reached", "kept", "the sites' networks are internal", _word("route-out", "no", "a way out: {}")),
        Guarantee("names outside the lab", "not resolved", "weaker", "Docker before 26 asks the node's resolver for them"),
        Guarantee("a replica's own address, name and ssh", "from the host", "lost", "only the balancer and the name server have ports on the nodes"),
        Guarantee("replicas' logs", "read and compared with the client's and the balancer's", "lost", "they are in the tasks' memory"),
        Guarantee("the image's bytes", "verified", "kept", "services name images by their digests"),
    )  # fmt: skip


def of_kubernetes(lab: Lab) -> tuple[Guarantee, ...]:
    """The same for Kubernetes. Pure."""
    plugin = "NetworkPolicy, where the nodes' network plug-in enforces it"
    other: dict[str, tuple[State, str]] = {
        "user": ("kept", "runAsUser, runAsNonRoot"),
        "user namespace": ("lost", "hostUsers: false would need newer nodes"),
        "capabilities": ("kept", "capabilities.drop"),
        "no new privileges": ("kept", "allowPrivilegeEscalation: false"),
        "system calls": ("kept by the daemon's configuration", "the file nodes/labkit.json in each kubelet's folder of profiles"),
        "root file system": ("kept", "readOnlyRootFilesystem"),
        "/sys": ("weaker", "the runtime mounts it read-only"),
        "what the kernel says of the machine": ("weaker", "the runtime covers fewer files"),
        "memory": ("kept", "resources.limits"),
        "processes": ("kept by the daemon's configuration", "podPidsLimit of the kubelet"),
        "processors": ("kept", "resources.limits"),
        **dict.fromkeys(
            ("other sites' replicas", "replicas of the same site", "the outside"), ("kept by the daemon's configuration", plugin)
        ),
        "what it writes": ("weaker", "sizeLimit of the folders in memory, which nodes before 1.22 do not set; the number of files is not limited"),
        "names outside the lab": ("kept", "dnsPolicy: None"),
        "a replica's own address, name and ssh": ("lost", "only the balancer and the name server have addresses outside: externalIPs, which Kubernetes 1.40 is to switch off"),
    }  # fmt: skip
    found = of(lab)
    looks = {item.subject: item.look for item in found}
    # The limit of processes is the pod's, and not seen in its container; one rule keeps all other replicas away.
    looks |= {"processes": None, "replicas of the same site": looks["other sites' replicas"]}
    return tuple(
        replace(item, state=other[item.subject][0], why=other[item.subject][1], otherwise=None, look=looks[item.subject])
        if item.subject in other
        else item
        for item in found
    )  # fmt: skip


def table(
    guarantees: Iterable[Guarantee], inside: Inside | None, *, privileges: bool
) -> list[dict[str, str]]:
    """One row a guarantee: subject, here, state, why, and what was seen from inside ('' where nothing was tried). Pure.

    What is stated as kept and was seen otherwise is lost.
    """
    rows = []
    for item in guarantees:
        state = item.state if privileges or item.otherwise is None else item.otherwise
        seen, holds = item.look(inside) if inside and item.look else ("", True)
        if seen and not holds and state.startswith("kept"):
            state = "lost"
        rows.append(
            {
                "guarantee": item.subject,
                "on one machine": item.here,
                "here": state,
                "by": item.why,
                "seen": seen,
            }
        )
    return rows


def broken(guarantees: Iterable[Guarantee], inside: Inside, *, privileges: bool) -> list[str]:
    """The guarantees that are stated as kept, by the engine itself, and are not; with what was seen. Pure."""
    return [
        f"{item.subject}: {seen}"
        for item in guarantees
        if item.look
        and (item.state if privileges or item.otherwise is None else item.otherwise) == "kept"
        for seen, holds in [item.look(inside)]
        if not holds
    ]


def read(lines: Iterable[str]) -> Inside:
    """What the script's output says. A line that is none of the script's counts for nothing. Pure."""
    found = {}
    for line in lines:
        word, is_one, value = line.partition("labkit:")[2].partition("=")
        if is_one:
            found[word[:60]] = value.strip()[:200]
    return Inside(found=found)


def words(addresses: Iterable[str]) -> tuple[str, ...]:
    """The command that looks from inside."""
    return ("sh", "-c", SCRIPT, "sh", *bundle.MASKED, "--", *addresses)
