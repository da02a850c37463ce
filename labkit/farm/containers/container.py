"""Containers: bundles on overlayfs over one unpacked image, run by runC under the lab's own root.

The functions here are the steps; those that act expect the caller to hold the lab's ``farm`` lock,
except :func:`kill` and :func:`start`, which work on one replica of a farm that stands.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import cancellation
from labkit.core import run
from labkit.core.daemon import tail
from labkit.core.journal import Journal
from labkit.core.undo import delete_container, unmount
from labkit.errors import ENDED, CommandTimeoutError, FarmError, excerpt
from labkit.farm.containers import logs, mounts, quota, roots
from labkit.farm.containers.bundle import Mount, Spec
from labkit.farm.containers.places import (  # fmt: skip
    bundle,
    cgroup,
    console,
    folder,
    runc,
    runc_root,
    sshd_log,
    users_file,
    written,
)
from labkit.farm.containers.roots import WWW_DATA, Wanted, configuration, image_configuration
from labkit.farm.containers.seccomp import SERVING
from labkit.farm.containers.states import State, parse_list, state, states
from labkit.kernel import cgroups, netns
from labkit.model.lab import Lab, Replica
from labkit.model.sites import REPLICA_VARIABLE

if TYPE_CHECKING:  # whoever looks at containers builds no image
    from labkit.farm.images.unpacking import Unpacked

__all__ = [
    "WWW_DATA", "State", "bundle", "cgroup", "configuration", "console", "folder",
    "image_configuration", "parse_list", "runc", "runc_root", "sshd_log", "state", "states", "written",
]  # fmt: skip

#: runC's own environment: on one processor its run time does not start threads that then wait for
#: each other, which saves a fifth of its work.
QUICK = {"GOMAXPROCS": "1"}
#: A server's memory, as glibc takes it: one heap for all threads and not one for each processor (mallopt(3));
#: no room on each thread's stack for libraries that are loaded later and want thread-local variables there
#: (glibc's manual, Dynamic Linking Tunables), which is a page of each thread.
SMALL = {
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.rtld.nns=1:glibc.rtld.optional_static_tls=0",
}
#: How long a killed process may take to be gone, in seconds.
PATIENCE = 5.0


def access_log(lab: Lab, replica: Replica) -> Path:
    """Where the host reads the replica's access log (:data:`labkit.model.sites.LOG_FORMAT`)."""
    return logs.place(lab, replica.name, "access")


def replica_spec(lab: Lab, replica: Replica) -> Spec:
    """A replica's container: apache2 as www-data, without a single capability."""
    return Spec(
        name=replica.name,
        args=("apache2", "-D", "FOREGROUND"),
        environment={REPLICA_VARIABLE: replica.name, **SMALL},
        uid=WWW_DATA,
        gid=WWW_DATA,
        cgroup=f"{cgroup(lab)}/{replica.name}",
        netns=replica.netns,
        sysctl={"net.ipv4.ip_unprivileged_port_start": "0"},
        size=lab.containers.written_mib * 2**20,
        works=SERVING,
        mounts=(
            memory_mount("/run/apache2", WWW_DATA),
            memory_mount("/run/lock/apache2", WWW_DATA),
            Mount(
                destination="/var/log/apache2",
                kind="bind",
                source=str(access_log(lab, replica).parent),
                options=("bind", "rw", "nosuid", "nodev", "noexec"),
            ),
        ),
    )


def memory_mount(destination: str, owner: int) -> Mount:
    """A small folder in memory that ``owner`` may write."""
    options = (
        "nosuid", "nodev", "noexec", "mode=0755", f"uid={owner}", f"gid={owner}", "size=1m", "nr_inodes=256",
    )  # fmt: skip
    return Mount(destination=destination, kind="tmpfs", source="tmpfs", options=options)


def prepare(
    lab: Lab,
    spec: Spec,
    unpacked: Unpacked,
    files: Mapping[str, str] | None = None,
    *,
    writable: bool = False,
) -> bool:
    """One container's bundle stands (:func:`labkit.farm.containers.roots.prepare`); whether anything had to be
    made."""
    return bool(roots.prepare(lab, [Wanted(spec, unpacked, files or {}, writable)]))


def create(lab: Lab, name: str) -> None:
    """The container exists and waits to be started; what was left of an earlier one is removed."""
    intend(lab, [name])
    _runc(lab, name, "create")


def begin(lab: Lab, name: str) -> None:
    """The created container's first process runs."""
    run.run(runc(lab, "start", name), env=QUICK)


def intend(lab: Lab, names: Iterable[str]) -> None:
    """The journal has these containers, which are about to be made."""
    root = str(runc_root(lab))
    runc_root(lab).mkdir(parents=True, exist_ok=True)
    made = (("container", {"root": root, "container": name}) for name in names)
    Journal.of(lab).intend_all([("cgroup", {"path": cgroup(lab)}), *made])


def launch(lab: Lab, name: str) -> None:
    """A container that is in the journal runs, made and started in one step; what was left of an
    earlier one is removed."""
    _runc(lab, name, "run", "--detach")


def launch_all(lab: Lab, farm: Sequence[Replica]) -> None:
    """The same of several replicas at once."""
    if len(farm) < mounts.WORTH:
        run.spread(lambda item: launch(lab, item.name), farm)
        return
    places = {replica: _mounts(lab, replica) for replica in lab.farm}
    with mounts.without([place for own in places.values() for place in own]) as few:
        run.spread(
            lambda item: mounts.within(few, places[item], partial(launch, lab, item.name)), farm
        )


def _mounts(lab: Lab, replica: Replica) -> list[Path]:
    """Where something is mounted for a replica's container."""
    root = bundle(lab, replica.name) / "rootfs"
    own = (written(lab, replica.name), users_file(lab, replica.name))
    return [root, *own, netns.path(replica.netns)]


def _runc(lab: Lab, name: str, *command: str) -> None:
    delete_container(lab, root=str(runc_root(lab)), container=name)
    log = folder(lab, name) / "runc.log"
    log.unlink(missing_ok=True)
    quota.make_room(lab, name)
    words = runc(lab, "--log", log, *command, "--bundle", bundle(lab, name), name)
    done = run.run(words, ok=range(-64, 256), output=console(lab, name), env=QUICK)
    if done.status:
        said = f"{tail(log)} {tail(console(lab, name))}".replace("(empty)", "").strip()
        killed = done.status < 0
        raise FarmError(
            f"container {name}",
            f"runC could not create it ({'signal' if killed else 'status'} {abs(done.status)}): "
            f"{said or 'without a word'}",
            ENDED
            if killed
            else "its config.json or the kernel lacks something: `labkit doctor` knows the common causes",
            done.command,
            code="farm.container-refused",
        )


def remove(lab: Lab, name: str) -> None:
    """The container, its overlay and its folder are gone."""
    journal = Journal.of(lab)
    root = str(runc_root(lab))
    delete_container(lab, root=root, container=name)
    journal.forget("container", root=root, container=name)
    for place in (bundle(lab, name) / "rootfs", users_file(lab, name), written(lab, name)):
        target = str(place)
        unmount(lab, target=target)
        journal.forget("mount", target=target)
    shutil.rmtree(folder(lab, name), ignore_errors=True)
    journal.forget("folder", path=str(folder(lab, name)))


def kill(lab: Lab, replica: Replica) -> None:
    """The replica's first process is gone (SIGKILL), and with it all others of the container."""
    if _status(lab, replica.name) != "running":
        return
    run.run(runc(lab, "kill", replica.name, "KILL"))
    wait(lab, replica.name)


def wait(lab: Lab, name: str) -> None:
    """The container's processes have all ended; :class:`FarmError` when it takes over five seconds."""
    deadline = time.monotonic() + PATIENCE
    group = f"{cgroup(lab)}/{name}"
    while _status(lab, name) == "running" or cgroups.processes(group):
        if time.monotonic() > deadline:
            raise FarmError(
                f"container {name}",
                "does not end",
                "",
                f"runc --root {runc_root(lab)} list",
                code="farm.container-endless",
            )
        cancellation.pause(0.005)


def start(lab: Lab, replica: Replica) -> None:
    """The replica's first process runs, in a new container on the same bundle and namespace."""
    if _status(lab, replica.name) == "running":
        return
    create(lab, replica.name)
    begin(lab, replica.name)


def execute(lab: Lab, name: str, *words: str, options: tuple[str, ...] = ()) -> run.Done:
    """Runs a program inside the running container and returns what it wrote."""
    return run.run(runc(lab, "exec", *options, name, *words))


def death(lab: Lab, name: str) -> FarmError:
    """The error for a container whose first process has ended: its output and its exit status.

    A server that said nothing there has said it in its error log, whose end is taken instead.

    runC keeps no exit status of a detached container, so the same bundle is run once more, in the
    foreground and for at most two seconds.
    """
    output, errors = console(lab, name), logs.place(lab, name, "error")
    said = logs.end(output) or logs.end(errors) or "(no output)"
    delete_container(lab, root=str(runc_root(lab)), container=name)
    status = "it has ended"
    with suppress(CommandTimeoutError):
        log = ("--log", folder(lab, name) / "runc.log")  # runC's own warnings go there
        again = runc(lab, *log, "run", "--bundle", bundle(lab, name), name)
        output.write_bytes(b"")
        done = run.run(
            again, ok=range(-64, 256), timeout=2, output=output
        )  # of which it may write much
        said = logs.end(output, 2000) or said
        status = f"exit status {done.status}"
    delete_container(lab, root=str(runc_root(lab)), container=name)
    return FarmError(
        f"container {name}",
        f"its first process does not live ({status}): {excerpt(said)}",
        "correct what its own output says",
        f"cat {output} {errors}",
        code="farm.container-died",
    )


def unpack(lab: Lab, tag: str) -> Unpacked:
    """The image's layers and configuration, unpacked (see :func:`labkit.farm.images.actions.unpacked`)."""
    from labkit.farm.images import actions as image
    from labkit.farm.images import remembered

    known = remembered.unpacked(lab) or {}
    return known.get(tag) or image.unpacked(lab, tag)


def unpack_all(lab: Lab) -> dict[str, Unpacked]:
    """The same of every site's image, by the site's name."""
    from labkit.farm.images import actions as image
    from labkit.farm.images import remembered

    found = remembered.unpacked(lab)
    if found is None:
        found = image.every_site(lab)
        remembered.remember(lab, found)
    return found


def _status(lab: Lab, name: str) -> str:
    """A container's status, 'absent' when runC does not know it."""
    known = state(lab, name)
    return known.status if known else "absent"
