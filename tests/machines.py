"""A small network of machines with a Docker daemon each, for tests: network namespaces stand for the machines.

The daemons' programs are unpacked from Debian's packages and run from there: nothing is installed, no service of this
machine is started, and all that a daemon makes lies in a folder, a mount namespace and control groups of the test's.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from labkit import Lab
from labkit.cluster import checks
from labkit.core import run
from labkit.farm.traffic import failover
from labkit.farm.traffic.load import Load, Sent
from tests.conftest import CACHE
from tests.waiting import until

#: Debian's packages whose programs the machines run.
PACKAGES = (
    "containerd", "docker-registry", "docker.io", "iptables", "libdevmapper1.02.1", "libwrap0", "openssh-server", "runc", "tini",
)  # fmt: skip
CGROUPS = Path("/sys/fs/cgroup")
#: Where a package has its libraries.
LIBRARIES = f"{platform.machine()}-linux-gnu"
#: What a daemon needs for itself, in a mount namespace: its own /etc and /var/lib, and memory in the place of the folders in
#: which it writes whatever its options say. The arguments: the machine's name, its folder, control groups, the daemon's words.
ALONE = """
set -e
for group in $3; do echo $$ > "$group/cgroup.procs"; done
hostname "$1"
mount -t overlay -o "lowerdir=/etc,upperdir=$2/etc,workdir=$2/scratch" overlay /etc
mount -t overlay -o "lowerdir=/var/lib,upperdir=$2/lib,workdir=$2/scratch-lib" overlay /var/lib
mkdir -p /var/lib/docker
for place in /var/lib/docker /opt /run; do mount -t tmpfs tmpfs "$place"; done
shift 3
exec "$@"
"""


def programs(cache: Path = Path(CACHE)) -> Path:
    """The folder into which :data:`PACKAGES` are unpacked; apt fetches them once."""
    place = cache / "machines"
    if not (place / "root").is_dir():
        place.mkdir(parents=True, exist_ok=True)
        new = place / f"new-{secrets.token_hex(3)}"
        (new / "debs").mkdir(parents=True)
        new.chmod(0o755)
        run.run(["apt-get", "download", "-q", *PACKAGES], cwd=new / "debs", timeout=300)
        for package in sorted((new / "debs").glob("*.deb")):
            run.run(["dpkg", "-x", package, new / "root"], timeout=120)
        shutil.rmtree(new / "debs")
        with suppress(OSError):
            (new / "root").rename(place / "root")  # another worker may have been first
        shutil.rmtree(new)
    return place / "root"


@dataclass(frozen=True)
class Machine:
    """One machine: its name, network namespace, address, and folder."""

    name: str
    netns: str
    address: str
    folder: Path

    @property
    def host(self) -> str:
        """Where its daemon answers."""
        return f"unix://{self.folder}/docker.sock"

    @property
    def tcp(self) -> str:
        """Where it answers in the network, to clients with a certificate."""
        return f"tcp://{self.address}:2376"

    @property
    def groups(self) -> list[Path]:
        """Its control groups: one in each hierarchy."""
        places = [CGROUPS] if (CGROUPS / "cgroup.procs").exists() else sorted(CGROUPS.glob("*/"))
        return [place / self.name for place in places]


@dataclass(frozen=True)
class Network:
    """The machines, and a namespace ``client`` on the same network, in which a lab's host side stands."""

    machines: tuple[Machine, ...]
    client: str
    switch: str
    address: str

    def port(self, machine: Machine) -> str:
        """The switch's port to which a machine is plugged."""
        return f"p-{machine.netns}"


@contextmanager
def network(folder: Path, count: int, subnet: str = "10.99.0") -> Iterator[Network]:
    """A switch in a namespace of its own, and ``count`` machines and a client plugged into it."""
    word = f"m{secrets.token_hex(2)}"
    machines = tuple(
        Machine(f"{word}n{n}", f"{word}n{n}", f"{subnet}.{n}", folder / f"n{n}")
        for n in range(1, count + 1)
    )
    client, switch = f"{word}c", f"{word}s"
    made = [switch, client, *(item.netns for item in machines)]
    try:
        for name in made:
            run.run(["ip", "netns", "add", name])
            run.run(["ip", "-n", name, "link", "set", "lo", "up"])
        ip(
            switch,
            "link add lan type bridge",
            "link set lan up",
            f"address add {subnet}.254/24 dev lan",
        )
        for name, number in [
            *((item.netns, n) for n, item in enumerate(machines, 1)),
            (client, 100),
        ]:
            ip(
                switch,
                f"link add p-{name} type veth peer name eth0 netns {name}",
                f"link set p-{name} master lan up",
            )
            ip(
                name,
                f"address add {subnet}.{number}/24 dev eth0",
                "link set eth0 up",
                f"route add default via {subnet}.254",
            )
        yield Network(machines, client, switch, f"{subnet}.100")
    finally:
        for name in made:
            run.run(["ip", "netns", "delete", name], ok=range(256), quiet=True)


def ip(netns: str, *orders: str) -> None:
    """Orders to ip(8) in a namespace."""
    for order in orders:
        run.run(["ip", "-n", netns, *order.split()])


@contextmanager
def docker(machine: Machine, settings: Mapping[str, object]) -> Iterator[subprocess.Popen[bytes]]:
    """A Docker daemon on a machine, with these settings (daemon.json)."""
    root = programs()
    for name in ("etc", "scratch", "lib", "scratch-lib", "data", "exec"):
        (machine.folder / name).mkdir(parents=True)
    _certificates(machine)
    own = {
        f"tls{name}": str(machine.folder / "tls" / f"{name}.pem")
        for name in ("cacert", "cert", "key")
    }
    (machine.folder / "daemon.json").write_text(json.dumps({**settings, **own, "tlsverify": True}))
    groups = grouped(machine)
    words = [
        f"{root}/usr/sbin/dockerd", "--config-file", f"{machine.folder}/daemon.json", "--host", machine.host, "--host", machine.tcp,
        "--data-root", f"{machine.folder}/data", "--exec-root", f"{machine.folder}/exec", "--pidfile", f"{machine.folder}/pid",
        "--bridge", "none", "--storage-driver", "overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs",
        "--cgroup-parent", f"/{machine.name}",
    ]  # fmt: skip
    spaces = [
        "nsenter",
        f"--net=/run/netns/{machine.netns}",
        "unshare",
        "--mount",
        "--uts",
        "--propagation=private",
    ]
    alone = ["sh", "-c", ALONE, "sh", machine.name, str(machine.folder), groups]
    env = {
        "PATH": f"{root}/usr/sbin:{root}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LD_LIBRARY_PATH": f"{root}/usr/lib/{LIBRARIES}:{root}/lib/{LIBRARIES}",
        "HOME": str(machine.folder),
    }
    with (machine.folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [*spaces, *alone, *words], stdout=log, stderr=log, env=env, start_new_session=True
        )
    try:
        _wait(machine, daemon)
        yield daemon
    finally:
        daemon.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(15)
        clear(machine)
        daemon.wait(5)


def _certificates(machine: Machine) -> None:
    """A certificate in the folder ``tls``, under the names that Docker looks for: of the server, and of its clients."""
    place = machine.folder / "tls"
    place.mkdir()
    words = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=machine",
        "-addext", f"subjectAltName=IP:{machine.address}", "-keyout", place / "key.pem", "-out", place / "cert.pem",
    ]  # fmt: skip
    run.run(words)
    for name in ("ca", "cacert"):
        shutil.copy(place / "cert.pem", place / f"{name}.pem")


@contextmanager
def ssh(machine: Machine) -> Iterator[Path]:
    """An ssh server on a machine, whose sessions find its Docker; yields the folder of an ``ssh`` that knows key and host."""
    place, root = machine.folder / "ssh", programs()
    place.mkdir()
    for name in ("host", "user"):
        run.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name])
    (place / "sshd_config").write_text(
        f"HostKey {place}/host\nAuthorizedKeysFile {place}/user.pub\nPidFile none\nStrictModes no\nListenAddress {machine.address}\n"
        f'SetEnv "PATH={root}/usr/bin:/usr/bin:/bin" "DOCKER_HOST={machine.host}"\n'
    )
    client = place / "bin" / "ssh"
    client.parent.mkdir()
    client.write_text(
        f'#!/bin/sh\nexec /usr/bin/ssh -F none -i {place}/user -o UserKnownHostsFile={place}/known -o StrictHostKeyChecking=accept-new "$@"\n'
    )
    client.chmod(0o755)
    user = "sshd:x:100000:65534::/run/sshd:/usr/sbin/nologin"
    script = f"mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/log && mkdir /run/sshd && cat /etc/passwd > {place}/passwd && echo {user} >> {place}/passwd && mount --bind {place}/passwd /etc/passwd && exec {root}/usr/sbin/sshd -D -e -f {place}/sshd_config"
    words = [
        "nsenter",
        f"--net=/run/netns/{machine.netns}",
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-c",
        script,
    ]
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LD_LIBRARY_PATH": f"{root}/usr/lib/{LIBRARIES}:{root}/lib/{LIBRARIES}",
    }
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, env=env)
    try:
        yield client.parent
    finally:
        server.terminate()
        server.wait(5)


def grouped(machine: Machine) -> str:
    """Makes the machine's control groups; returns those of its daemon."""
    found = []
    for group in machine.groups:
        (group / "daemon").mkdir(parents=True, exist_ok=True)
        if group.parent.name == "cpuset":
            for file in ("cpuset.cpus", "cpuset.mems"):
                for place in (group, group / "daemon"):
                    (place / file).write_text((group.parent / file).read_text())
        if group.parent.name in ("memory", "cpuacct", "pids", "cgroup"):
            found.append(str(group / "daemon"))
    return " ".join(found)


def _wait(machine: Machine, daemon: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while not _answers(machine):
        if daemon.poll() is not None or time.monotonic() > end:
            raise AssertionError((machine.folder / "log").read_text()[-2000:])
        time.sleep(0.05)


def _answers(machine: Machine) -> bool:
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(5)
        try:
            channel.connect(machine.host.removeprefix("unix://"))
            channel.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in channel.recv(100)
        except OSError:
            return False


def crash(network: Network, machine: Machine) -> None:
    """Ends all that runs on a machine at once, and pulls its plug."""
    for _ in range(3):
        kill(machine)
    ip(network.switch, f"link set {network.port(machine)} down")


def kill(machine: Machine) -> None:
    """SIGKILL to each process in the machine's control groups."""
    for group in machine.groups:
        for file in group.rglob("cgroup.procs"):
            with suppress(OSError):
                for pid in file.read_text().split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)


def clear(machine: Machine) -> None:
    """Ends what is left in the machine's control groups, and removes them."""
    end = time.monotonic() + 10
    while any(group.exists() for group in machine.groups) and time.monotonic() < end:
        kill(machine)
        for group in machine.groups:
            for place in sorted(group.rglob("*/"), key=lambda path: -len(path.parts)):
                with suppress(OSError):
                    place.rmdir()
            with suppress(OSError):
                group.rmdir()
        time.sleep(0.05)


@contextmanager
def loaded(lab: Lab, nodes: Sequence[str], pace: float) -> Iterator[list[Sent]]:
    """Clients ask for each site at these nodes while the block runs, the first site's on kept connections; whatever they sent is
    in the list afterwards. ``pace``: seconds between two requests to a site at a node."""
    loads = [
        Load(lab, checks.target(lab, node, site.name), "cluster", concurrency=4, pace=pace, limit=300, kept=number == 0)
        for node in nodes
        for number, site in enumerate(lab.sites)
    ]  # fmt: skip
    sent: list[Sent] = []
    with contextlib.ExitStack() as running:
        for load in loads:
            running.enter_context(failover.running(load))
        until(lambda: all(load.sent for load in loads))
        yield sent
    sent += [item for load in loads for item in load.sent]


def traces(network: Network, folder: Path) -> list[str]:
    """What is left on this machine of a network whose machines are gone: processes, mounts, namespaces, control groups, files."""
    names = [network.client, network.switch, *(item.netns for item in network.machines)]
    processes = [" ".join(item.info["cmdline"] or ()) for item in psutil.process_iter(["cmdline"])]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [
        *(line for line in (*processes, *mounts) if str(folder) in line),
        *(str(path) for name in names for path in [Path("/run/netns", name)] if path.exists()),
        *(str(group) for item in network.machines for group in item.groups if group.exists()),
        *(str(path) for path in [folder] if path.exists()),
    ]


def swarm(machines: Sequence[Machine], prefix: int = 24) -> None:
    """Makes the first machine a manager of a swarm, and the others its workers; its networks get prefixes of this length."""
    import docker as sdk

    first = machines[0]
    with contextlib.closing(sdk.DockerClient(base_url=first.host)) as client:
        client.swarm.init(
            advertise_addr=first.address,
            listen_addr=f"{first.address}:2377",
            default_addr_pool=["10.0.0.0/8"],
            subnet_size=prefix,
        )
        client.swarm.reload()
        token = client.swarm.attrs["JoinTokens"]["Worker"]
    for machine in machines[1:]:
        with contextlib.closing(sdk.DockerClient(base_url=machine.host)) as client:
            client.swarm.join(
                [f"{first.address}:2377"],
                token,
                advertise_addr=machine.address,
                listen_addr=f"{machine.address}:2377",
            )
