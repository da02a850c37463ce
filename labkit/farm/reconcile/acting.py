"""A plan carried out: each kind of step by the function that its subject has for it, in a safe order.

First what is missing is made, then the two servers in front are told, then what serves is replaced piece
by piece, and only then is removed what the Lab does not have any more: nobody is sent to a replica
that is not there yet, or not there any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from labkit.core import probes, run
from labkit.core.journal import lock
from labkit.core.undo import delete_container
from labkit.errors import FarmError
from labkit.farm.containers import (
    container,
    lab_namespaces,
    overlay,
    replica_files,
    runc,
)
from labkit.farm.containers.overlay import Wanted
from labkit.farm.containers.runc import State
from labkit.farm.images import actions as images
from labkit.farm.network import actions as network
from labkit.farm.network import allotment, firewall, host, stale
from labkit.farm.reconcile import answering, preflight, removing, rolling
from labkit.farm.reconcile.difference import Plan
from labkit.farm.reconcile.looking import Look, is_unnamed, look
from labkit.farm.services import balancer_instance as balancer
from labkit.farm.services import dns_instance as names
from labkit.kernel import cgroups
from labkit.model.lab import Lab, Replica
from labkit.model.resources import KINDS

#: How many looks it may take: images that were made, or a namespace that has its name again, show what
#: else is to be done.
ROUNDS = 5
#: What the replicas are made with, once their image is there.
PROGRAMS = (
    "runc", "umoci", "nsenter", "nft", "ssh-keygen", "dpkg", "dpkg-query",
)  # fmt: skip
#: What the two servers in front of them are.
SERVERS = ("dnsmasq", "apache2", "ss")
#: What can be done beside something else.
Step = Callable[[], object]


def converge(lab: Lab, kinds: Sequence[str] = KINDS) -> tuple[Plan, ...]:
    """The lab's resources of these kinds are as the Lab says; the plans that were carried out for it.

    Images are built before the lab's ``farm`` lock is taken, everything else is done under it.
    :raises FarmError: what is seen does not become what is wanted, whatever is done; and whatever the
        steps themselves raise.
    """
    first = look(lab, kinds).plan(lab, kinds)
    if first.empty:
        return ()
    done = [prepare(lab, first)]
    with lock(lab.run_dir, "farm"):
        while not (plan := (seen := look(lab, kinds)).plan(lab, kinds)).empty:
            if len(done) > ROUNDS or done[-1].steps == plan.steps:
                raise _stuck(plan)
            wider = rolling.surging(lab, plan, seen.states) if KINDS[-1] in kinds else lab
            done.append(plan if wider == lab else seen.plan(wider, kinds))
            act(wider, done[-1], seen)
    return tuple(plan for plan in done if plan.steps)


def prepare(lab: Lab, plan: Plan) -> Plan:
    """What is needed before anything of the farm is touched: programs, overlayfs, names and ports that nobody
    else has, keys that are some, images, the host's side; the part of the plan that was carried out by this."""
    run.require(*PROGRAMS, *(SERVERS if plan.named("names") or plan.named("balancer") else ()))
    if plan.named("container"):
        cgroups.require()
        probes.devices()
    if plan.named("root", "create", "replace"):
        overlay.require(lab)
    preflight.refuse_taken(lab, plan)
    if plan.named("keys"):
        replica_files.refuse_damaged(lab)
    side = {lab.host.netns, str(lab.subnet)}
    steps = [step for step in plan.steps if step.kind == "image" or step.name in side]
    steps = [step for step in steps if step.action != "remove"]
    if plan.named("image"):
        probes.builds(lab)
        images.unpack_all(lab)
    if _needs_side(lab, plan):
        host.up(lab)
    return plan.model_copy(update={"steps": tuple(steps)})


def _needs_side(lab: Lab, plan: Plan) -> bool:
    """Whether the plan changes the host's side: its namespace, the bridge, the fence around the subnet."""
    side = {lab.host.netns, str(lab.subnet), lab.bridge}
    return any(step.name in side for step in plan.steps)


def act(lab: Lab, plan: Plan, seen: Look) -> None:
    """Carries out the steps; the caller holds the ``farm`` lock and has called :func:`prepare`.

    What that made may be gone again: another process took the lab down before this one had the lock.
    """
    if plan.named("image"):
        images.unpack_all(lab)
    if _needs_side(lab, plan):
        host.make(lab)
    allotment.remember(lab, others=True)
    removing.elsewhere(lab, plan)
    renewed, now, later = _asked(lab, plan, seen.states)
    wired = _ready(lab, plan, seen.states, partial(_lay, lab, renewed, now, plan.hung()))
    _launch(lab, renewed, now)
    if wired:  # those that were made have answered since
        others = (item for item in lab.farm if item.name not in {*renewed, *later})
        answering.wait(lab, list(others))
    before = rolling.serving(lab)
    _serve(lab, plan)
    rolling.replace(lab, later, partial(_make, lab, {*later}))
    if (wired or plan.named("container")) and not plan.named("balancer", "create", "restart"):
        rolling.taken_back(lab)
    if plan.named("balancer", "change") and _takes_away(plan):
        rolling.finished(lab, before)
    removing.surplus(lab, plan)
    allotment.remember(lab, others=False)
    if wired and _has_stale(plan):
        stale.remove(lab)
    if plan.named("firewall", "create", "change"):
        firewall.settle(lab)


def _ready(lab: Lab, plan: Plan, states: dict[str, State], lay: Callable[[], None]) -> bool:
    """Keys, the fence around the replicas, their namespaces, links and (``lay``) bundles are there: made side
    by side, since each of them waits for programs or the kernel. Whether there was anything to wire."""

    def connected() -> bool:
        steps: list[Step] = [partial(replica_files.keys, lab)] if plan.named("keys") else []
        steps.append(partial(_connect, lab, plan, states))
        wired = run.spread(_do, steps)[-1]
        lay()
        return bool(wired)

    if plan.named("firewall", "change"):  # before what it is to let through
        firewall.widen(lab)
    steps: list[Step] = [partial(firewall.widen, lab)] if plan.named("firewall", "create") else []
    return bool(run.spread(_do, [*steps, connected])[-1])


def _connect(lab: Lab, plan: Plan, states: dict[str, State]) -> bool:
    """The replicas' namespaces and links are there; whether there was anything to wire."""
    if new := _new(lab, plan):
        _name(lab, new, states)
    return _wire(lab, plan)


def _new(lab: Lab, plan: Plan) -> set[str]:
    """The replicas' namespaces that are not there as they are to be."""
    asked = {item.netns for item in lab.farm}
    return asked.intersection(plan.named("namespace", "create", "change"))


def _name(lab: Lab, new: set[str], states: dict[str, State]) -> None:
    """The namespaces of these names are there: again, where a container still runs in one."""
    for replica in lab.farm:
        if replica.netns in new and is_unnamed(replica, states):
            lab_namespaces.name_again(lab, replica.netns, states[replica.name].pid)
    lab_namespaces.create_namespaces(lab, [replica.netns for replica in lab.farm])


def _wire(lab: Lab, plan: Plan) -> bool:
    """Bridge and links are there; whether there was anything to do."""
    if not (
        _new(lab, plan)
        or plan.named("bridge", "create", "change")
        or plan.named("link", "create", "change")
    ):
        return False
    network.wire(lab)
    if _has_stale(plan):
        stale.route(lab)
    return True


def _has_stale(plan: Plan) -> bool:
    """Whether an interface has addresses or routes that are none of its own."""
    return any(
        reason.fact in ("addresses", "gateway")
        for step in plan.steps
        if step.kind in ("bridge", "link")
        for reason in step.reasons
    )


def _takes_away(plan: Plan) -> bool:
    """Whether something is removed that an earlier request may still need."""
    return _has_stale(plan) or any(step.action == "remove" for step in plan.steps)


def _asked(
    lab: Lab, plan: Plan, states: dict[str, State]
) -> tuple[set[str], list[Replica], tuple[str, ...]]:
    """Whose containers are made anew; the replicas that do not serve yet, of which something has to be made;
    those that serve, and have to be replaced."""
    renewed = {*plan.named("root"), *plan.named("container", "create", "restart", "replace")}
    asked = [item for item in lab.farm if item.name in {*renewed, *plan.named("container")}]
    alive = {name for name, state in states.items() if state.pid} - plan.hung()
    later = tuple(item.name for item in asked if item.name in renewed & alive)
    return renewed, [item for item in asked if item.name not in later], later


def _make(lab: Lab, renewed: set[str], replicas: Sequence[Replica]) -> None:
    """The replicas' bundles stand; those of ``renewed`` run in new containers, and answer."""
    _lay(lab, renewed, replicas)
    _launch(lab, renewed, replicas)


def _lay(
    lab: Lab, renewed: set[str], replicas: Sequence[Replica], hung: Collection[str] = ()
) -> None:
    """The replicas' bundles stand; of those of ``renewed`` no container is left, and of those of ``hung`` neither
    namespace nor link: they are made anew, without whatever else keeps the replica from answering."""
    if not replicas:
        return
    unpacked = images.unpack_all(lab)
    files = replica_files.replica_files(lab, replica_files.keys(lab))
    anew = [item for item in replicas if item.name in renewed]
    run.spread(partial(_end, lab), anew)
    if lab_namespaces.renew_namespaces(lab, anew, hung):
        network.wire(lab)
    wanted = [
        Wanted(container.replica_spec(lab, item), unpacked[item.site], files) for item in replicas
    ]
    overlay.prepare(lab, wanted)


def _launch(lab: Lab, renewed: set[str], replicas: Sequence[Replica]) -> None:
    """Those of ``renewed`` run in new containers, and answer."""
    anew = [item for item in replicas if item.name in renewed]
    if anew:
        container.intend(lab, [item.name for item in anew])
        container.launch_all(lab, anew)
    answering.wait(lab, anew)


def _end(lab: Lab, replica: Replica) -> None:
    """The replica's container is no more: its root file system is not mounted anew below it."""
    delete_container(lab, root=str(runc.root(lab)), container=replica.name)


def _serve(lab: Lab, plan: Plan) -> None:
    """Name server and balancer say what the Lab says; a balancer that moves answers where it was until the
    names lead to where it will be. One that serves nobody yet is started beside the name server."""
    moves = bool(plan.named("balancer", "change"))
    if moves:
        balancer.widen(lab)
    steps: list[Step] = []
    if plan.named("names", "create", "change", "restart"):
        steps.append(partial(names.converge, lab))
    if plan.named("balancer", "create", "change", "restart"):
        steps.append(partial(balancer.converge, lab))
    run.spread(_do, steps, workers=1 if moves else len(steps))


def _do(step: Step) -> object:
    return step()


def _stuck(plan: Plan) -> FarmError:
    step = plan.steps[0]
    return FarmError(
        step.id,
        f"is not as it has to be, although labkit did what it can: {step.why}",
        "something else changes it at the same time, or it cannot be had on this machine",
        "labkit plan",
        code="farm.not-converged",
    )
