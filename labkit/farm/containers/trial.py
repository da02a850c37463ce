"""Trial containers: made for one experiment, and removed after it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit.core import run
from labkit.core.files import write_atomically
from labkit.core.journal import Journal
from labkit.farm.containers import container, lab_namespaces, overlay, runc, written
from labkit.farm.containers.bundle import Json, Spec, configure, text
from labkit.farm.images import layout as images
from labkit.kernel import cgroups
from labkit.model.lab import Lab

#: The image that trial containers stand on: the root file system without the web servers.
TAG = "base"


def spec(lab: Lab, name: str, *args: str, terminal: bool = False) -> Spec:
    """A trial container in a new network namespace, which runs ``args`` as root without a capability."""
    return Spec(
        name=name,
        args=args,
        environment={},
        cgroup=f"{runc.cgroup(lab)}/{name}",
        terminal=terminal,
        sysctl={},
    )


@contextmanager
def prepared(lab: Lab, *specs: Spec, **changed: Json) -> Iterator[None]:
    """Makes the bundles of trial containers, and removes containers, mounts and folders after the block.

    ``changed`` maps a container's name to the whole config.json that it gets instead. The caller holds the lab's
    ``farm`` lock.
    """
    cgroups.require()
    unpacked = images.unpacked(lab, TAG)
    try:
        for item in specs:
            container.prepare(lab, item, unpacked)
            if item.name in changed:
                path = runc.bundle(lab, item.name) / "config.json"
                write_atomically(path, text(changed[item.name]))
        yield
    finally:
        for item in specs:
            container.remove(lab, item.name)


def own_configuration(lab: Lab, item: Spec) -> Json:
    """The config.json that :func:`prepared` makes for a trial container."""
    ids = lab_namespaces.preview(lab, [item.name])[item.name]
    unpacked = images.unpacked(lab, TAG)
    return configure(overlay.image_configuration(unpacked), lab_namespaces.with_ids(lab, item, ids))


def foreground(lab: Lab, name: str, timeout: float = 30.0) -> run.Done:
    """Runs the container by ``runc run`` until it ends, with any exit status."""
    return run.run(_words(lab, name), ok=range(-64, 256), timeout=timeout)


def detached(lab: Lab, name: str, *options: str | Path) -> run.Done:
    """Runs the container by ``runc run --detach``, with any exit status.

    What runC and the container's process say goes to :func:`labkit.farm.containers.written.console`.
    """
    words = _words(lab, name, "--detach", *options)
    return run.run(words, ok=range(-64, 256), timeout=30.0, output=written.console(lab, name))


@contextmanager
def taken_terminal(lab: Lab, name: str) -> Iterator[Path]:
    """A socket for ``runc run --console-socket``, to which runC hands the container's terminal.

    It is held while the block runs and hung up with the block's end (runC, docs/terminals.md).
    """
    path = lab.run_dir / f"{name}.socket"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as holder:
        holder.bind(str(path))
        holder.listen(1)
        try:
            yield path
        finally:
            path.unlink()


def _words(lab: Lab, name: str, *options: str | Path) -> list[str | Path]:
    """The argument list of ``runc run``, with the container in the journal; what runC itself warns of is not
    taken for the program's words."""
    journal = Journal.of(lab)
    runc.root(lab).mkdir(parents=True, exist_ok=True)
    journal.intend("cgroup", path=runc.cgroup(lab))
    journal.intend("container", root=str(runc.root(lab)), container=name)
    log = runc.folder(lab, name) / "runc.log"
    return runc.command(
        lab, "--log", log, "run", *options, "--bundle", runc.bundle(lab, name), name
    )
