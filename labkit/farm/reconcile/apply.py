"""Carries out a plan, in an order in which no request is lost.

First what is missing is made, then name server and balancer are told, then the containers that serve are
replaced, one part of each site after the other, and only then is removed what the Lab does not have any
more: no request goes to a replica that is not there yet, or not there any more. Before a replica goes, the
balancer sends it nothing new, and it has answered its requests. A site with a single replica gets a second
one for the time (:func:`surging`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from labkit import cancellation
from labkit.core import daemon, probes, run, undo
from labkit.core.journal import Entry, Journal, lock
from labkit.errors import ConfigError, FarmError
from labkit.farm.containers import container, lab_namespaces, overlay, runc
from labkit.farm.containers.overlay import Wanted
from labkit.farm.containers.runc import State
from labkit.farm.images import layout as images
from labkit.farm.network import firewall, host, links
from labkit.farm.reconcile import answers, preflight
from labkit.farm.reconcile.observe import Observation, is_unnamed, observe
from labkit.farm.reconcile.plan import Plan
from labkit.farm.services import balancer_server, dns_server
from labkit.kernel import cgroups
from labkit.model.config import Site
from labkit.model.lab import Lab, Replica
from labkit.model.resources import KINDS

#: The most plans that are carried out: images that were made, or a namespace that has its name again, show
#: further steps.
ROUNDS = 5
#: How long a replica may take to answer its requests before it goes, in seconds.
PATIENCE = 10.0
#: What the replicas are made with, once their image is there.
PROGRAMS = (
    "runc", "umoci", "nsenter", "nft", "ssh-keygen", "dpkg", "dpkg-query",
)  # fmt: skip
#: What the two servers in front of them are.
SERVERS = ("dnsmasq", "apache2", "ss")


def converge(lab: Lab, kinds: Sequence[str] = KINDS) -> tuple[tuple[Plan, ...], Observation]:
    """Makes the lab's resources of these kinds as the Lab says; returns the plans that were carried out, and the
    last observation, in which nothing differs any more.

    Images are built before the lab's ``farm`` lock is taken, everything else is done under it.
    :raises FarmError: the observed resources do not become the wanted ones, whatever is done; and whatever
        the steps themselves raise.
    """
    state = observe(lab, kinds)
    first = state.plan(lab, kinds)
    if first.empty:
        return (), state
    done = [prepare(lab, first)]
    with lock(lab.run_dir, "farm"):
        while not (plan := (state := observe(lab, kinds)).plan(lab, kinds)).empty:
            if len(done) > ROUNDS or done[-1].steps == plan.steps:
                step = plan.steps[0]
                raise FarmError(
                    step.id,
                    f"still differs after labkit's last attempt: {step.why}",
                    "another program changes it at the same time, or this machine cannot provide it",
                    "labkit plan",
                    code="farm.not-converged",
                )
            wider = surging(lab, plan, state.states) if KINDS[-1] in kinds else lab
            done.append(plan if wider == lab else state.plan(wider, kinds))
            act(wider, done[-1], state)
    return tuple(plan for plan in done if plan.steps), state


def prepare(lab: Lab, plan: Plan) -> Plan:
    """Provides all that is needed before anything of the farm is touched: programs, overlayfs, names and ports
    that are free, keys that are sound, images, the host's side.

    Returns the part of the plan that was carried out by this.
    """
    run.require(*PROGRAMS, *(SERVERS if plan.named("names") or plan.named("balancer") else ()))
    if plan.named("container"):
        cgroups.require()
        probes.devices()
    if plan.named("root", "create", "replace"):
        overlay.require(lab)
    preflight.refuse_taken(lab, plan)
    if plan.named("keys"):
        container.refuse_damaged(lab)
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


def act(lab: Lab, plan: Plan, state: Observation) -> None:
    """Carries out the steps; the caller holds the ``farm`` lock and has called :func:`prepare`.

    What that made may be gone again: another process took the lab down before this one had the lock.
    """
    if plan.named("image"):
        images.unpack_all(lab)
    if _needs_side(lab, plan):
        host.make(lab)
    host.remember_addresses(lab, others=True)
    if plan.named("link", "remove"):  # so that the ends in the containers are free
        _unmake(lab, lambda entry: entry.kind == "link" and _is_elsewhere(lab, entry))
    renewed, now, later = _divided(lab, plan, state.states)
    wired = _ready(lab, plan, state.states, partial(_lay, lab, renewed, now, plan.hung()))
    _launch(lab, renewed, now)
    if wired:  # those that were made have answered since
        others = (item for item in lab.farm if item.name not in {*renewed, *later})
        answers.wait(lab, list(others))
    before = balancer_server.serving(lab)
    _serve(lab, plan)
    replace(lab, later, partial(_make, lab, {*later}))
    if (wired or plan.named("container")) and not plan.named("balancer", "create", "restart"):
        _wait_in_service(lab)
    if plan.named("balancer", "change") and _takes_away(plan):
        balancer_server.wait_ended(before)
    _remove_surplus(lab, plan)
    host.remember_addresses(lab, others=False)
    if wired and _has_stale(plan):
        links.remove_stale(lab)
    if plan.named("firewall", "change"):
        firewall.settle(lab)


# -- namespaces and links ------------------------------------------------------------------------


def _ready(lab: Lab, plan: Plan, states: dict[str, State], lay: Callable[[], None]) -> bool:
    """Makes keys, the fence around the replicas, their namespaces, links and (``lay``) bundles side by side,
    since each of them waits for programs or the kernel. Returns whether there was anything to wire."""

    def connected() -> bool:
        steps: list[Callable[[], object]] = (
            [partial(container.keys, lab)] if plan.named("keys") else []
        )
        wired = _together([*steps, partial(_connect, lab, plan, states)])[-1]
        lay()
        return bool(wired)

    widen = partial(firewall.widen, lab)
    if plan.named("firewall", "change"):  # before what it is to let through
        widen()
    first = [widen] if plan.named("firewall", "create") else []
    return bool(_together([*first, connected])[-1])


def _together(steps: Sequence[Callable[[], object]], *, workers: int = 4) -> list[object]:
    """What the steps return, which are carried out side by side."""
    return run.spread(lambda step: step(), steps, workers=workers)


def _connect(lab: Lab, plan: Plan, states: dict[str, State]) -> bool:
    """Makes the replicas' namespaces, the bridge and the links; returns whether there was anything to wire."""
    asked = {item.netns for item in lab.farm}
    if new := asked.intersection(plan.named("namespace", "create", "change")):
        for replica in lab.farm:
            if replica.netns in new and is_unnamed(replica, states):
                lab_namespaces.name_again(lab, replica.netns, states[replica.name].pid)
        lab_namespaces.create_namespaces(lab, [replica.netns for replica in lab.farm])
    if not (
        new or plan.named("bridge", "create", "change") or plan.named("link", "create", "change")
    ):
        return False
    links.wire(lab)
    return True


def _has_stale(plan: Plan) -> bool:
    """Whether an interface has addresses or routes that the Lab does not give it."""
    return any(
        reason.fact in ("addresses", "gateway")
        for step in plan.steps
        if step.kind in ("bridge", "link")
        for reason in step.reasons
    )


def _takes_away(plan: Plan) -> bool:
    """Whether something is removed that an earlier request may still need."""
    return _has_stale(plan) or any(step.action == "remove" for step in plan.steps)


# -- replicas ------------------------------------------------------------------------------------


def _divided(
    lab: Lab, plan: Plan, states: dict[str, State]
) -> tuple[set[str], list[Replica], tuple[str, ...]]:
    """The names of the containers that are made anew; the replicas that do not serve yet, of which something
    has to be made; the names of those that serve, and have to be replaced."""
    renewed = {*plan.named("root"), *plan.named("container", "create", "restart", "replace")}
    asked = [item for item in lab.farm if item.name in {*renewed, *plan.named("container")}]
    alive = {name for name, state in states.items() if state.pid} - plan.hung()
    later = tuple(item.name for item in asked if item.name in renewed & alive)
    return renewed, [item for item in asked if item.name not in later], later


def _make(lab: Lab, renewed: set[str], replicas: Sequence[Replica]) -> None:
    """Lays the replicas' bundles, and runs those of ``renewed`` in new containers until they answer."""
    _lay(lab, renewed, replicas)
    _launch(lab, renewed, replicas)


def _lay(
    lab: Lab, renewed: set[str], replicas: Sequence[Replica], hung: Collection[str] = ()
) -> None:
    """Lays the replicas' bundles. Of ``renewed`` the containers are deleted first, and of ``hung`` namespace and
    link are made anew as well, without whatever else keeps the replica from answering."""
    if not replicas:
        return
    unpacked = images.unpack_all(lab)
    files = container.replica_files(lab, container.keys(lab))
    anew = [item for item in replicas if item.name in renewed]
    run.spread(partial(_delete, lab), anew)
    if lab_namespaces.renew_namespaces(lab, anew, hung):
        links.wire(lab)
    wanted = [
        Wanted(container.replica_spec(lab, item), unpacked[item.site], files) for item in replicas
    ]
    overlay.prepare(lab, wanted)


def _launch(lab: Lab, renewed: set[str], replicas: Sequence[Replica]) -> None:
    """Runs those of ``renewed`` in new containers until they answer."""
    anew = [item for item in replicas if item.name in renewed]
    if anew:
        container.intend(lab, [item.name for item in anew])
        container.launch_all(lab, anew)
    answers.wait(lab, anew)


def _delete(lab: Lab, replica: Replica) -> None:
    """Deletes the replica's container, so that its root file system is not mounted anew below it."""
    undo.delete_container(lab, root=str(runc.root(lab)), container=replica.name)


def waves(lab: Lab, names: Sequence[str]) -> tuple[tuple[Replica, ...], ...]:
    """The replicas of these names in the order in which they are replaced: at most the half of a site's
    at a time (or its only one), all sites side by side. Pure."""
    found: list[list[Replica]] = []
    for site in lab.sites:
        replicas = lab.replicas_of(site.name)
        asked = [item for item in replicas if item.name in names]
        width = max(1, len(replicas) // 2)
        for place in range(0, len(asked), width):
            number = place // width
            if number == len(found):
                found.append([])
            found[number] += asked[place : place + width]
    return tuple(map(tuple, found))


def surging(lab: Lab, plan: Plan, states: dict[str, State]) -> Lab:
    """The Lab with one replica more for each site whose only one is to be replaced while it serves; the Lab
    itself where that cannot be, or need not."""
    renewed = {*plan.named("root"), *plan.named("container", "restart", "replace")}
    alive = {name for name, state in states.items() if state.pid} - plan.hung()
    only = {
        site.name
        for site in lab.sites
        if len(own := lab.replicas_of(site.name)) == 1 and own[0].name in renewed & alive
    }
    if not only & {name.rpartition("-")[0] for name in _in_service(lab, only)}:
        return lab
    try:
        sites = [_wider(site, only) for site in lab.sites]
        return Lab.of({**lab.model_dump(), "sites": sites}).allotted(lab.allotment)
    except ConfigError:  # no address, or no name, is left for another one
        return lab


def _wider(site: Site, only: set[str]) -> dict[str, object]:
    values = site.model_dump()
    if site.name in only:
        values |= {"replicas": 2, "weights": site.weights and (*site.weights, *site.weights)}
    return values


def replace(lab: Lab, names: Sequence[str], make: Callable[[Sequence[Replica]], None]) -> None:
    """Calls ``make`` for each wave of replicas while the balancer leaves them out; it makes them serve again."""
    for wave in waves(lab, names):
        with withdrawn(lab, wave):
            make(wave)


@contextmanager
def withdrawn(lab: Lab, replicas: Sequence[Replica]) -> Iterator[None]:
    """While the block runs, the balancer, if it runs, sends these replicas nothing; they are idle when it begins."""
    known = set(_in_service(lab, {item.site for item in replicas}))
    gone = [item for item in replicas if item.name in known]
    with ExitStack() as after:
        for item in gone:
            balancer_server.stop(lab, item, True)
            after.callback(_end_stop, lab, item)
        cancellation.until(lambda: not _busy(lab, gone), PATIENCE)
        yield


def _end_stop(lab: Lab, replica: Replica) -> None:
    with suppress(FarmError):  # the balancer has gone meanwhile
        balancer_server.stop(lab, replica, False)


def _wait_in_service(lab: Lab) -> None:
    """Waits until the balancer, if it runs, sends requests to every replica that is not withdrawn: it looks once
    a second whether one answers that had not."""
    if daemon.pid(balancer_server.server(lab)) is not None:
        names = {replica.name for replica in lab.farm}
        cancellation.until(
            lambda: (
                not any(
                    item.failed for item in balancer_server.workers(lab) if item.replica in names
                )
            ),
            PATIENCE,
        )


def _in_service(lab: Lab, sites: set[str]) -> Iterator[str]:
    """The workers of some sites that the running balancer has in service; none when it does not run."""
    if daemon.pid(balancer_server.server(lab)) is None:
        return
    for site in sorted(sites):
        with suppress(FarmError):
            yield from (w.replica for w in balancer_server.members(lab, site).workers if w.usable)


def _busy(lab: Lab, replicas: Sequence[Replica]) -> bool:
    """Whether one of them still has a request to answer."""
    asked = {item.name for item in replicas}
    return any(
        worker.busy
        for site in sorted({item.site for item in replicas})
        for worker in balancer_server.members(lab, site).workers
        if worker.replica in asked
    )


# -- the two servers, and what goes --------------------------------------------------------------


def _serve(lab: Lab, plan: Plan) -> None:
    """Makes name server and balancer say what the Lab says; a balancer that moves answers where it was until
    the names lead to where it will be. One that does not serve yet is started beside the name server."""
    moves = bool(plan.named("balancer", "change"))
    if moves:
        balancer_server.widen(lab)
    steps: list[Callable[[], object]] = []
    if plan.named("names", "create", "change", "restart"):
        steps.append(partial(dns_server.converge, lab))
    if plan.named("balancer", "create", "change", "restart"):
        steps.append(partial(balancer_server.converge, lab))
    _together(steps, workers=1 if moves else len(steps))


def _remove_surplus(lab: Lab, plan: Plan) -> None:
    """Removes replicas that the lab does not have, and what is on another host side than the lab's.

    Everything is known from the journal; nothing else is ever removed.
    """
    if not any(step.action == "remove" for step in plan.steps):
        return
    container.remove_surplus(lab)
    _unmake(lab, lambda entry: entry.kind == "table" and _is_elsewhere(lab, entry))
    _unmake(
        lab,
        lambda entry: (
            entry.kind == "route"
            and (_is_elsewhere(lab, entry) or entry.what.get("subnet") != str(lab.subnet))
        ),
    )
    asked = {lab.host.netns, *(item.netns for item in lab.farm)}
    _unmake(lab, lambda entry: entry.kind == "netns" and entry.what.get("name") not in asked)


def _is_elsewhere(lab: Lab, entry: Entry) -> bool:
    return entry.what.get("netns") != lab.host.netns


def _unmake(lab: Lab, chosen: Callable[[Entry], bool]) -> None:
    journal = Journal.of(lab)
    for entry in reversed(journal.standing()):
        if chosen(entry):
            undo.unmake(entry, lab)
            journal.forget(entry.kind, **entry.what)
