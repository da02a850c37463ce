"""Containers for a trial: made for one question, and gone when it is answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from labkit import run
from labkit.farm import container
from labkit.farm.bundle import Json, Spec, configure, text
from labkit.files import write_atomically
from labkit.journal import Journal
from labkit.lab import Lab

#: The image that trial containers stand on: the root file system without the web servers.
TAG = "base"


def spec(lab: Lab, name: str, *args: str, terminal: bool = False) -> Spec:
    """A container of its own network namespace that runs ``args`` as root without a capability."""
    return Spec(
        name=name,
        args=args,
        environment={},
        cgroup=f"{container.cgroup(lab)}/{name}",
        terminal=terminal,
        sysctl={},
    )


@contextmanager
def prepared(lab: Lab, *specs: Spec, **changed: Json) -> Iterator[None]:
    """The bundles stand while the block runs; afterwards container, mount and folder are gone.

    ``changed``: a container's name -> the whole config.json that it gets instead of its own.
    The caller holds the lab's ``farm`` lock.
    """
    unpacked = container.unpack(lab, TAG)
    try:
        for item in specs:
            container.prepare(lab, item, unpacked)
            if item.name in changed:
                path = container.bundle(lab, item.name) / "config.json"
                write_atomically(path, text(changed[item.name]))
        yield
    finally:
        for item in specs:
            container.remove(lab, item.name)


def own_configuration(lab: Lab, item: Spec) -> Json:
    """The config.json that a trial container gets by itself."""
    return configure(container.image_configuration(container.unpack(lab, TAG)), item)


def foreground(lab: Lab, name: str, *options: str, timeout: float = 30.0) -> run.Done:
    """``runc run`` on the container's bundle, to its end, whatever its exit status."""
    journal = Journal.of(lab)
    container.runc_root(lab).mkdir(parents=True, exist_ok=True)
    journal.intend("cgroup", path=container.cgroup(lab))
    journal.intend("container", root=str(container.runc_root(lab)), container=name)
    words = container.runc(lab, "run", *options, "--bundle", container.bundle(lab, name), name)
    return run.run(words, ok=range(-64, 256), timeout=timeout)
