"""Preflight: refuses names, addresses, ports and groups that others have, before anything is made or fetched."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.core import daemon, undo
from labkit.core.journal import Journal, other_owner
from labkit.display import counted
from labkit.errors import StateError
from labkit.farm.containers import container, lab_namespaces, runc
from labkit.farm.network import host, links
from labkit.farm.reconcile.plan import Plan
from labkit.farm.services import balancer_server, dns_server
from labkit.kernel import cgroups
from labkit.kernel import netns as namespaces
from labkit.kernel.links import Netlink
from labkit.kernel.netns import within
from labkit.model.lab import Lab


def refuse_taken(lab: Lab, plan: Plan) -> None:
    """Raises :class:`StateError` or :class:`MachineError` when names, subnet, control group or ports that the
    plan needs are neither free nor the lab's; the error names who has them."""
    made = {step.kind for step in plan.steps if step.action != "remove"}
    if "namespace" in made:
        lab_namespaces.refuse_taken_namespaces(
            lab, [*(item.netns for item in lab.farm), *filter(None, [lab.netns])]
        )
    if "container" in made:
        _refuse_group(lab)
        _refuse_containers(lab)
    if not lab.netns or namespaces.stands(lab.netns):
        if made & {"route", "bridge", "link"}:
            within(lab.netns, _refuse_links, lab)
        _refuse_ports(lab, [*plan.named("names", "create"), *plan.named("balancer", "create")])


def surplus_replicas(lab: Lab) -> tuple[str, ...]:
    """The replicas that run and that the lab does not have; what a study tries beside them has no link."""
    entries = Journal.of(lab).standing()
    links = {entry.what.get("name") for entry in entries if entry.kind == "link"}
    names = [n for n in container.surplus(lab, entries) if lab.link_name(n) in links]
    states = runc.states(lab) if names else {}
    return tuple(n for n in names if n in states and states[n].status == "running")


def refuse_surplus(lab: Lab) -> None:
    """Raises :class:`StateError` when replicas run that the lab does not have: no stage removes them."""
    if more := surplus_replicas(lab):
        raise StateError(
            f"sites and replicas of lab {lab.name}",
            f"the farm that is up has {counted(len(more), 'replica')} more: {', '.join(more)}",
            "to keep them, give the same sites and replicas here (as parameters, or in lab.toml); to remove "
            f"them: `labkit apply --lab-name {lab.name}`",
            f"labkit plan --lab-name {lab.name}",
            code="state.surplus-replicas",
        )


def _refuse_links(netlink: Netlink, lab: Lab) -> None:
    host.refuse_taken_subnet(lab, netlink)
    links.refuse_foreign(lab, netlink.links())


def _refuse_group(lab: Lab) -> None:
    """Refuses a control group with processes of others in it, which would end with the lab."""
    path = runc.cgroup(lab)
    found = cgroups.processes(path)
    if not found or Journal.of(lab).owns("cgroup", path=path):
        return
    other = other_owner(lab, "cgroup", path=path)
    raise StateError(
        f"control group {path}",
        f"has processes that labkit did not start for this lab: {', '.join(map(str, sorted(found)))}"
        + (f" (lab {other})" if other else ""),
        "choose another lab name (lab.toml: name), or end those processes yourself",
        f"ps -fp {','.join(map(str, sorted(found)))}",
        code="state.cgroup-taken",
    )


def _refuse_containers(lab: Lab) -> None:
    """Refuses a container of a replica's name in runC's folder that labkit did not make for the lab."""
    journal, root = Journal.of(lab), runc.root(lab)
    for item in lab.farm:
        owned = journal.owns("container", root=str(root), container=item.name)
        if (root / item.name).exists() and not owned:
            raise StateError(
                f"container {item.name} in {root}",
                "exists already and labkit did not make it for this lab",
                "remove it yourself, or choose another lab name (lab.toml: name)",
                f"runc --root {root} list",
                code="state.container-taken",
            )


def _refuse_ports(lab: Lab, made: Sequence[str]) -> None:
    for name, port, key, server in (
        (lab.domain, dns_server.PORT, "the name server's port", dns_server.server(lab)),
        (lab.host_name("balancer"), lab.proxy.port, "proxy.port", balancer_server.server(lab)),
    ):
        if name in made:
            own = undo.daemon_pids(str(server.config))
            address = str(lab.gateway.ip)
            daemon.require_free(port, netns=lab.netns, address=address, key=key, own=own)
