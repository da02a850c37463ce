"""podman and docker, doing what labkit's farm does: containers of the same image on one bridge, four at a time.

Each has folders, a control group and a network namespace of its own. docker's daemon is started for the
benchmark, in a mount namespace in which /etc, /opt and /run are its own as well: it makes nothing on the machine,
and ends with the benchmark, however that ends. Debian's docker.io is not among labkit's packages. Without installing it::

    apt-get download docker.io containerd && for file in *.deb; do dpkg-deb -x "$file" FOLDER; done

and ``--docker FOLDER``.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import Popen

from labkit import Lab
from labkit.core import run, undo
from labkit.kernel import cgroups, netns

#: How long the daemon may take to answer, and to end, in seconds.
PATIENCE = 30.0
#: The programs that docker is made of, without runC.
DOCKER = ("dockerd", "containerd", "docker")
#: What each container is given, with either.
LIMITS = ("--log-driver", "none", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
#: How a container is removed at once, by SIGKILL.
REMOVE = {"podman": ("rm", "--force", "--time", "0"), "docker": ("rm", "--force")}
#: What the daemon is started by: a group of the lab's own, and folders that end with its mount namespace.
ALONE = """
for place in /sys/fs/cgroup/cpuacct /sys/fs/cgroup/cpu,cpuacct /sys/fs/cgroup; do
    if [ -w "$place/$1/cgroup.procs" ]; then echo $$ > "$place/$1/cgroup.procs"; break; fi
done
mount -t overlay -o "lowerdir=/etc,upperdir=$2/etc,workdir=$2/scratch" overlay /etc
mount -t tmpfs tmpfs /opt
mount -t tmpfs tmpfs /run
shift 2
exec "$@"
"""

Call = Callable[..., str]


def docker_there(folder: Path | None) -> str:
    """The search path on which docker's programs are, '' when they are not all there."""
    own = [str(folder / "usr/sbin"), str(folder / "usr/bin")] if folder else []
    path = os.pathsep.join([*own, "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
    return path if all(shutil.which(name, path=path) for name in DOCKER) else ""


def start(call: Call, lab: Lab, found: str, name: str, address: str) -> None:
    """One container runs."""
    call("run", "--detach", "--name", name, "--network", lab.name, "--ip", address,
         "--env", f"LABKIT_REPLICA={name}", "--cgroup-parent", f"/{lab.name}", *LIMITS,
         found, "apache2", "-D", "FOREGROUND")  # fmt: skip


@contextmanager
def podman(lab: Lab, folder: Path, layout: Path, subnet: str) -> Iterator[tuple[Call, str]]:
    """podman with its image and its network; how it is called, and the image's name."""
    own = folder / "podman"
    words = ["podman", "--root", f"{own}/root", "--runroot", f"{own}/run", "--tmpdir", f"{own}/tmp",
             "--network-config-dir", f"{own}/net", "--cgroup-manager", "cgroupfs", "--runtime", "runc",
             "--events-backend", "none"]  # fmt: skip
    call = partial(_called, words, lab.netns, {})
    try:
        call("load", "--quiet", "--input", _archive(lab, folder, layout))
        call("network", "create", "--subnet", subnet, lab.name)
        yield call, call("images", "--quiet").split()[0]
    finally:
        call(*REMOVE["podman"], "--all")
        call("network", "rm", "--force", lab.name)
        _unmounted(own)
        cgroups.end(f"/{lab.name}")


@contextmanager
def docker(lab: Lab, folder: Path, layout: Path, subnet: str, *, path: str) -> Iterator[tuple[Call, str]]:  # fmt: skip
    """The same with docker, whose daemon runs in the block."""
    own = folder / "docker"
    for name in ("etc", "scratch", "client"):
        (own / name).mkdir(parents=True)
    env = {"PATH": path, "DOCKER_CONFIG": f"{own}/client"}
    call = partial(_called, ["docker", "--host", f"unix://{own}/sock"], lab.netns, env)
    with _daemon(lab, own, path):
        deadline = time.monotonic() + PATIENCE
        while not (own / "sock").exists():
            assert time.monotonic() < deadline, (own / "log").read_text()[-2000:]
            time.sleep(0.05)
        call("load", "--quiet", "--input", _archive(lab, folder, layout))
        call("network", "create", "--subnet", subnet, lab.name)
        try:
            yield call, f"{lab.name}:latest"
        finally:
            left = call("ps", "--all", "--quiet").split()
            call(*REMOVE["docker"], *left) if left else ""
            call("network", "rm", lab.name)


@contextmanager
def _daemon(lab: Lab, own: Path, path: str) -> Iterator[None]:
    """dockerd, and what it starts, from first to last; it ends the containers and itself (SIGTERM) when
    this process is killed."""
    group = f"{lab.name}-daemon"
    for root in (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")):
        if root.is_dir():
            (root / lab.name / group).mkdir(parents=True, exist_ok=True)
            break
    (own / "daemon.json").write_text("{}\n")
    argv = ["setpriv", "--pdeathsig=TERM", "nsenter", f"--net={netns.path(lab.host.netns)}", "unshare", "--mount", "--propagation", "private",
            "sh", "-ec", ALONE, "sh", f"{lab.name}/{group}", str(own),
            "dockerd", "--config-file", f"{own}/daemon.json", "--host", f"unix://{own}/sock", "--data-root", f"{own}/data",
            "--exec-root", f"{own}/exec", "--pidfile", f"{own}/pid", "--bridge", "none", "--iptables=false",
            "--ip6tables=false", "--ip-masq=false", "--userland-proxy=false", "--storage-driver", "overlay2",
            "--exec-opt", "native.cgroupdriver=cgroupfs", "--log-level", "warn"]  # fmt: skip
    with (own / "log").open("wb") as log:
        process = Popen(argv, stdout=log, stderr=log, env={"PATH": path}, start_new_session=True)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            finally:
                cgroups.kill(f"/{lab.name}")
                process.kill()
                process.wait()
                cgroups.end(f"/{lab.name}")
                _unmounted(own)


def _called(words: Sequence[str], namespace: str | None, env: dict[str, str], *more: str) -> str:
    return run.run([*words, *more], netns=namespace, env=env, timeout=180).stdout


def _archive(lab: Lab, folder: Path, layout: Path) -> str:
    """The image as both load it: as a name of podman's, a folder's path may not be spelt as it likes."""
    archive = f"{folder}/{lab.name}.tar"
    there = f"docker-archive:{archive}:{lab.name}:latest"
    run.run(["skopeo", "copy", "--quiet", f"oci:{layout}:red", there], timeout=120)
    return archive


def _unmounted(folder: Path) -> None:
    for point in sorted(undo.mount_points(), reverse=True):
        if point.startswith(f"{folder}/"):
            run.run(["umount", "--lazy", point])
