"""Containers: bundles on overlayfs over one unpacked image, run by runC under the lab's own root.

The functions here are the steps; those that act expect the caller to hold the lab's ``farm`` lock,
except :func:`kill` and :func:`start`, which work on one replica of a farm that stands.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from labkit import run
from labkit.daemon import tail
from labkit.errors import CommandTimeoutError, FarmError
from labkit.farm import image
from labkit.farm.image import Unpacked
from labkit.farm.runc import overlay
from labkit.farm.runc.bundle import MADE_OF, Json, Mount, Spec, configure, marked, text
from labkit.farm.site import REPLICA_VARIABLE
from labkit.files import text_of, write_atomically
from labkit.journal import Journal
from labkit.lab import Lab, Replica
from labkit.result import Record
from labkit.undo import delete_container, mount_points, unmount

#: Debian's www-data (base-passwd, static ids).
WWW_DATA = 33
#: How long a killed process may take to be gone, in seconds.
PATIENCE = 5.0


class State(Record):
    """A container as ``runc list`` shows it; ``pid`` is 0 once its first process has ended; ``made_of``
    is the fingerprint of the configuration that it was created with ('' when that names none)."""

    id: str
    pid: int
    status: str
    bundle: str
    made_of: str = ""


def folder(lab: Lab, name: str) -> Path:
    """The container's own folder: bundle, writable layer and output."""
    return lab.state_dir / "containers" / name


def bundle(lab: Lab, name: str) -> Path:
    """The bundle that ``runc create --bundle`` is given."""
    return folder(lab, name) / "bundle"


def access_log(lab: Lab, replica: Replica) -> Path:
    """Where the host reads the replica's access log (:data:`labkit.farm.site.LOG_FORMAT`)."""
    return folder(lab, replica.name) / "log" / "access.log"


def console(lab: Lab, name: str) -> Path:
    """What a detached container's first process wrote to its standard output and error."""
    return folder(lab, name) / "console.log"


def runc_root(lab: Lab) -> Path:
    """Where runC keeps the state of this lab's containers, apart from everybody else's."""
    return lab.run_dir / "runc"


def cgroup(lab: Lab) -> str:
    """The control group that holds those of the lab's containers."""
    return f"/labkit-{lab.name}"


def runc(lab: Lab, *words: str | Path) -> list[str | Path]:
    """The argument list of a runC command on this lab's containers."""
    return ["runc", "--root", runc_root(lab), *words]


def replica_spec(lab: Lab, replica: Replica) -> Spec:
    """A replica's container: apache2 as www-data, without a single capability."""
    return Spec(
        name=replica.name,
        args=("apache2", "-D", "FOREGROUND"),
        environment={REPLICA_VARIABLE: replica.name},
        uid=WWW_DATA,
        gid=WWW_DATA,
        cgroup=f"{cgroup(lab)}/{replica.name}",
        netns=replica.netns,
        sysctl={"net.ipv4.ip_unprivileged_port_start": "0"},
        mounts=(
            memory_mount("/run/apache2", WWW_DATA),
            memory_mount("/run/lock/apache2", WWW_DATA),
            Mount(
                destination="/var/log/apache2",
                kind="bind",
                source=str(folder(lab, replica.name) / "log"),
                options=("bind", "rw", "nosuid", "nodev", "noexec"),
            ),
        ),
    )


def memory_mount(destination: str, owner: int) -> Mount:
    """A small folder in memory that ``owner`` may write."""
    options = ("nosuid", "nodev", "noexec", "mode=0755", f"uid={owner}", f"gid={owner}", "size=1m")
    return Mount(destination=destination, kind="tmpfs", source="tmpfs", options=options)


def image_configuration(unpacked: Unpacked) -> Json:
    """The runtime configuration that umoci made from the image's own."""
    found: Json = json.loads(unpacked.config.read_text())
    return found


def prepare(
    lab: Lab, spec: Spec, unpacked: Unpacked, files: Mapping[str, str] | None = None
) -> bool:
    """The bundle stands: config.json, and the root file system as an overlay on the image's layers.

    ``files`` (path below the root -> text, mode 0600) are put into the container's own layer.
    Returns whether anything had to be made.
    """
    made = _overlay(lab, spec.name, unpacked, files or {})
    config = bundle(lab, spec.name) / "config.json"
    wanted = configuration(image_configuration(unpacked), spec)
    if text_of(config) != wanted:
        write_atomically(config, wanted)
        made = True
    return made


def configuration(image_own: Json, spec: Spec) -> str:
    """The text of the bundle's config.json; it names its own fingerprint, which runC shows again."""
    return text(marked(configure(image_own, spec)))


def states(lab: Lab) -> dict[str, State]:
    """The lab's containers by id, as runC knows them."""
    if not runc_root(lab).is_dir():
        return {}
    done = run.run(runc(lab, "list", "--format", "json"), ok=range(256), quiet=True)
    if done.status:  # one damaged state file ends runC: each container is asked by itself
        asked = (_state(lab, path.name) for path in sorted(runc_root(lab).iterdir()))
        return {item.id: item for item in asked if item}
    return {item.id: item for item in parse_list(done.stdout)}


def _state(lab: Lab, name: str) -> State | None:
    """One container as runC knows it (runc-state(8)), None when it does not."""
    done = run.run(runc(lab, "state", name), ok=range(256), quiet=True)
    return parse_list(f"[{done.stdout}]")[0] if done.status == 0 else None


def parse_list(output: str) -> list[State]:
    """The containers in ``runc list --format json``'s output (``null`` when there is none)."""
    return [
        State(
            **{key: item[key] for key in ("id", "pid", "status", "bundle")},
            made_of=(item.get("annotations") or {}).get(MADE_OF, ""),
        )
        for item in json.loads(output) or []
    ]


def create(lab: Lab, name: str) -> None:
    """The container exists and waits to be started; what was left of an earlier one is removed."""
    journal = Journal.of(lab)
    delete_container(lab, root=str(runc_root(lab)), container=name)
    runc_root(lab).mkdir(parents=True, exist_ok=True)
    journal.intend("cgroup", path=cgroup(lab))
    journal.intend("container", root=str(runc_root(lab)), container=name)
    log = folder(lab, name) / "runc.log"
    log.unlink(missing_ok=True)
    console(lab, name).unlink(missing_ok=True)
    words = runc(lab, "--log", log, "create", "--bundle", bundle(lab, name), name)
    done = run.run(words, ok=range(256), output=console(lab, name))
    if done.status:
        said = f"{tail(log)} {tail(console(lab, name))}".replace("(empty)", "").strip()
        raise FarmError(
            f"container {name}",
            f"runC could not create it (status {done.status}): {said or 'without a word'}",
            "its config.json or the kernel lacks something: `labkit doctor` knows the common causes",
            done.command,
        )


def begin(lab: Lab, name: str) -> None:
    """The created container's first process runs."""
    run.run(runc(lab, "start", name))


def remove(lab: Lab, name: str) -> None:
    """The container, its overlay and its folder are gone."""
    journal = Journal.of(lab)
    root = str(runc_root(lab))
    delete_container(lab, root=root, container=name)
    journal.forget("container", root=root, container=name)
    target = str(bundle(lab, name) / "rootfs")
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
    """The container's first process has ended; :class:`FarmError` when it takes over five seconds."""
    deadline = time.monotonic() + PATIENCE
    while _status(lab, name) == "running":
        if time.monotonic() > deadline:
            raise FarmError(
                f"container {name}", "does not end", "", f"runc --root {runc_root(lab)} list"
            )
        time.sleep(0.005)


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
    logs = (console(lab, name), folder(lab, name) / "log" / "error.log")
    said = next((tail(log) for log in logs if log.exists() and log.stat().st_size), "(no output)")
    delete_container(lab, root=str(runc_root(lab)), container=name)
    status = "it has ended"
    with suppress(CommandTimeoutError):
        again = runc(lab, "run", "--bundle", bundle(lab, name), name)
        done = run.run(again, ok=range(-64, 256), timeout=2)
        said = (done.stderr + done.stdout).strip() or said
        status = f"exit status {done.status}"
    delete_container(lab, root=str(runc_root(lab)), container=name)
    return FarmError(
        f"container {name}",
        f"its first process does not live ({status}): {said[-1000:]}",
        "correct what its own output says",
        f"cat {logs[0]} {logs[1]}",
    )


def unpack(lab: Lab, tag: str) -> Unpacked:
    """The image's layers and configuration, unpacked (see :func:`labkit.farm.image.unpacked`)."""
    return image.unpacked(lab, tag)


def _status(lab: Lab, name: str) -> str:
    """A container's status, 'absent' when runC does not know it."""
    state = _state(lab, name)
    return state.status if state else "absent"


def _overlay(lab: Lab, name: str, unpacked: Unpacked, files: Mapping[str, str]) -> bool:
    """Mounts the container's root file system; returns whether it was not mounted as wanted."""
    own = folder(lab, name)
    target = bundle(lab, name) / "rootfs"
    marker, made_of = own / "lower", overlay.made_of(unpacked.lower, files)
    mounted = str(target.resolve()) in mount_points()
    if mounted and text_of(marker) == made_of:
        return False
    journal = Journal.of(lab)
    journal.intend("folder", path=str(own))
    journal.intend("mount", target=str(target))
    if mounted:
        delete_container(lab, root=str(runc_root(lab)), container=name)
        unmount(lab, target=str(target))
    for part in ("upper", "scratch", "log", "bundle/rootfs"):
        (own / part).mkdir(parents=True, exist_ok=True)
    shutil.chown(own / "log", WWW_DATA, WWW_DATA)
    for path, content in files.items():
        write_atomically(own / "upper" / path, content, mode=0o600)
    overlay.mount(unpacked.lower, own, target)
    write_atomically(marker, made_of)
    return True
