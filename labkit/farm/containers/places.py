"""Where a lab's containers are. Pure."""

from __future__ import annotations

from pathlib import Path

from labkit.model.lab import Lab


def folder(lab: Lab, name: str) -> Path:
    """The container's own folder: bundle, writable layer, and what its processes write."""
    return lab.state_dir / "containers" / name


def bundle(lab: Lab, name: str) -> Path:
    """The bundle that ``runc create --bundle`` is given."""
    return folder(lab, name) / "bundle"


def written(lab: Lab, name: str) -> Path:
    """Where everything is that the container's processes write (:mod:`labkit.farm.containers.quota`)."""
    return folder(lab, name) / "written"


def console(lab: Lab, name: str) -> Path:
    """What a detached container's first process wrote to its standard output and error."""
    return written(lab, name) / "console.log"


def sshd_log(lab: Lab, name: str) -> Path:
    """What the container's ssh server wrote to them."""
    return written(lab, name) / "sshd.log"


def users_file(lab: Lab, name: str) -> Path:
    """Where the container's user namespace is mounted, if it has one, for runC to find it."""
    return folder(lab, name) / "users"


def runc_root(lab: Lab) -> Path:
    """Where runC keeps the state of this lab's containers, apart from everybody else's."""
    return lab.run_dir / "runc"


def cgroup(lab: Lab) -> str:
    """The control group that holds those of the lab's containers."""
    return f"/labkit-{lab.name}"


def runc(lab: Lab, *words: str | Path) -> list[str | Path]:
    """The argument list of a runC command on this lab's containers."""
    return ["runc", "--root", runc_root(lab), *words]
