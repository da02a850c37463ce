"""A small Kubernetes for the benchmark: a control plane and nodes in the namespaces of :mod:`tests.machines`.

No suite of Debian has Kubernetes' servers as programs. They are built once from Debian 12's source package, which has
everything they need in it, and kept in the cache. Nothing is installed on the machine; whatever runs writes into a folder, mount
namespaces and control groups of its own.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from labkit.core import run
from tests import machines
from tests.conftest import CACHE
from tests.machines import Machine, Network
from tests.waiting import until

#: What is built.
SERVERS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
#: Debian's packages whose programs run, and those that the build needs besides.
PACKAGES = (
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "docker-registry",
    "etcd-server",
    "ethtool",
    "iptables",
    "libnetfilter-conntrack3",
    "runc",
)
TOOLS = ("golang-1.19-go", "golang-1.19-src", "libpopt0", "libxxhash0", "rsync")
#: What the servers say of themselves.
VERSION = """KUBE_GIT_COMMIT=none
KUBE_GIT_TREE_STATE=archive
KUBE_GIT_VERSION=v1.20.2
KUBE_GIT_MAJOR=1
KUBE_GIT_MINOR=20
"""
#: The machine's own sources of Debian's packages, as sources of their source packages.
SOURCES = "deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)"
#: The program of the container that holds a pod's network, and its image.
PAUSE = """package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	<-ended
}
"""
PAUSED = "labkit.test/pause:1"
#: A node's own mount and host namespaces: its own /etc and /var/lib, memory in the place of the folders in which its servers
#: write whatever their options say, and copies of the machine's settings that a kubelet changes. The arguments: the machine's
#: name, its folder, its control groups, and the programs' root.
ALONE = r"""
set -e
for group in $3; do echo $$ > "$group/cgroup.procs"; done
hostname "$1"
for place in etc var/lib; do
    mkdir -p "$2/over/$place" "$2/scratch/$place"
    mount -t overlay -o "lowerdir=/$place,upperdir=$2/over/$place,workdir=$2/scratch/$place" overlay "/$place"
done
for place in /opt /run /var/log; do mount -t tmpfs tmpfs "$place"; done
mkdir -p "$2/values"
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    value="$2/values/$(echo $name | tr / _)"
    cat "/proc/sys/$name" > "$value"
    mount --bind "$value" "/proc/sys/$name"
done
mkdir -p "$2/kubelet/seccomp"
mount --bind "$2/kubelet" "$2/kubelet"
mount --make-rshared "$2/kubelet"
containerd --config "$2/containerd.toml" > "$2/containerd.log" 2>&1 &
until [ -S "$2/containerd/socket" ]; do sleep 0.1; done
ctr --address "$2/containerd/socket" --namespace k8s.io images import "$4/usr/share/pause.tar" > "$2/import.log" 2>&1
kube-proxy --config "$2/proxy.json" > "$2/proxy.log" 2>&1 &
exec kubelet --config "$2/kubelet.json" --kubeconfig "$2/kubeconfig" --container-runtime remote \
    --container-runtime-endpoint "unix://$2/containerd/socket" --hostname-override "$1" --node-ip "$5" --root-dir "$2/kubelet" \
    --seccomp-profile-root "$2/kubelet/seccomp" --cert-dir "$2/certificates" --v 2
"""


def programs(cache: Path = Path(CACHE)) -> Path:
    """The folder of a root file system with the programs; they are built if need be, in a quarter of an hour."""
    place = cache / "kubernetes"
    if not (place / "root").is_dir():
        place.mkdir(parents=True, exist_ok=True)
        new = place / f"new-{secrets.token_hex(3)}"
        new.mkdir(mode=0o755)
        _unpack(new / "root", PACKAGES)
        _build(new / "build", new / "root/usr")
        shutil.rmtree(new / "build")
        with suppress(OSError):
            (new / "root").rename(place / "root")  # another one may have been first
        shutil.rmtree(new)
    return place / "root"


def _unpack(root: Path, packages: Sequence[str]) -> None:
    """apt fetches the packages as the machine's configuration says, and dpkg unpacks them."""
    debs = root.parent / "debs"
    debs.mkdir(parents=True)
    run.run(["apt-get", "download", "-q", *packages], cwd=debs, timeout=300)
    for package in sorted(debs.glob("*.deb")):
        run.run(["dpkg", "-x", package, root], timeout=120)
    shutil.rmtree(debs)


def _build(place: Path, programs: Path) -> None:
    """Builds :data:`SERVERS` and the image of :data:`PAUSE` in a folder, and moves them below ``programs``."""
    _unpack(place / "tools", TOOLS)
    source = _source(place / "source")
    (source / ".go/src/k8s.io").mkdir(parents=True)
    (source / ".go/src/k8s.io/kubernetes").symlink_to("../../..")
    (place / "version").write_text(VERSION)
    (place / "tmp").mkdir()
    go, tools = place / "tools/usr/lib/go-1.19", place / "tools/usr"
    env = {
        "PATH": f"{go}/bin:{tools}/bin:/usr/bin:/bin", "LD_LIBRARY_PATH": f"{tools}/lib/x86_64-linux-gnu", "HOME": f"{place}/tmp",
        "TMPDIR": f"{place}/tmp", "GOROOT": f"{go}", "GOPATH": f"{source}/.go", "GOCACHE": f"{place}/cache", "CGO_ENABLED": "0",
        "GOFLAGS": "", "GOPROXY": "off", "KUBE_GIT_VERSION_FILE": f"{place}/version", "KUBE_BUILD_PLATFORMS": "linux/amd64",
    }  # fmt: skip
    words = ["nice", "-n", "15", "env", "-i", *(f"{name}={value}" for name, value in env.items())]
    wanted = "WHAT=" + " ".join(f"cmd/{name}" for name in SERVERS)
    run.run([*words, "make", wanted], cwd=source, timeout=7200)
    for name in SERVERS:
        (source / "_output/local/go/bin" / name).rename(programs / "bin" / name)
    (place / "pause.go").write_text(PAUSE)
    run.run(
        [*words, "GO111MODULE=off", "go", "build", "-o", place / "pause", place / "pause.go"],
        cwd=place,
        timeout=300,
    )
    _image(place / "pause", place / "layout", programs / "share/pause.tar")


def _source(place: Path) -> Path:
    """Debian's source of Kubernetes, unpacked and patched; the machine's lists stay as they are."""
    for name in ("lists/partial", "cache/archives/partial"):
        (place / name).mkdir(parents=True)
    lines = run.run(
        ["apt-get", "indextargets", "--format", SOURCES, "Created-By: Packages", "Origin: Debian"]
    ).stdout
    (place / "list").write_text(lines)
    settings = {
        "Dir::Etc::SourceList": place / "list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": place / "lists",
        "Dir::Cache": place / "cache",
    }
    words = [word for key, value in settings.items() for word in ("--option", f"{key}={value}")]
    run.run(["apt-get", *words, "update"], timeout=300)
    run.run(["apt-get", *words, "source", "-q", "kubernetes"], cwd=place, timeout=600)
    return next(place.glob("kubernetes-*/"))


def _image(program: Path, layout: Path, archive: Path) -> None:
    """An image of one program, as ``ctr images import`` takes it."""
    run.run(["umoci", "init", "--layout", layout])
    run.run(["umoci", "new", "--image", f"{layout}:1"])
    run.run(["umoci", "insert", "--image", f"{layout}:1", program, "/pause"])
    run.run(["umoci", "config", "--image", f"{layout}:1", "--config.entrypoint", "/pause"])
    run.run(["skopeo", "copy", "--quiet", f"oci:{layout}:1", f"docker-archive:{archive}:{PAUSED}"])


@dataclass(frozen=True)
class Plane:
    """A control plane that runs: its folder, address, and the kubeconfig of its administrator."""

    folder: Path
    network: Network
    root: Path
    address: str

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "admin.json"

    def kubectl(self, *words: str) -> str:
        """What kubectl answers."""
        return run.run(
            [self.root / "usr/bin/kubectl", "--kubeconfig", self.kubeconfig, *words], netns=self.network.client, timeout=60,
        ).stdout  # fmt: skip

    def ready(self) -> set[str]:
        """The names of the nodes that are ready."""
        found = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        return {
            item["metadata"]["name"]
            for item in found
            if any(
                one["type"] == "Ready" and one["status"] == "True"
                for one in item["status"]["conditions"]
            )
        }

    def identity(self, place: Path, user: str, group: str = "") -> None:
        """Writes a kubeconfig for a user."""
        key, certificate = Authority.read(self.folder).issued(user, group)
        (place.with_suffix(".key")).write_bytes(key)
        (place.with_suffix(".crt")).write_bytes(certificate)
        cluster = {
            "server": f"https://{self.address}:6443",
            "certificate-authority": f"{self.folder}/ca.crt",
        }
        who = {
            "client-certificate": f"{place.with_suffix('.crt')}",
            "client-key": f"{place.with_suffix('.key')}",
        }
        place.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab", "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
            "clusters": [{"name": "lab", "cluster": cluster}], "users": [{"name": user, "user": who}],
        }))  # fmt: skip


@dataclass(frozen=True)
class Authority:
    """Who signs the cluster's certificates."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def made(cls, folder: Path) -> Authority:
        """A new one, kept in a folder."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("kubernetes")
        certificate = _begun(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())  # fmt: skip
        (folder / "ca.key").write_bytes(_pem(key))
        (folder / "ca.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        return cls(key, certificate)

    @classmethod
    def read(cls, folder: Path) -> Authority:
        """The one that is kept in a folder."""
        key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(key, x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes()))

    def issued(
        self, user: str, group: str = "", addresses: Sequence[str] = ()
    ) -> tuple[bytes, bytes]:
        """A key and its certificate, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        begun = _begun(_name(user, group), self.certificate.subject, key)
        if addresses:
            names = [x509.IPAddress(ipaddress.ip_address(item)) for item in addresses]
            begun = begun.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _pem(key), begun.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _name(user: str, group: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
    return x509.Name(
        [*parts, *([x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else [])]
    )


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        subject_name=subject, issuer_name=issuer, public_key=key.public_key(), serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(hours=1), not_valid_after=now + timedelta(days=2),
    )  # fmt: skip


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


@contextmanager
def control(network: Network, folder: Path) -> Iterator[Plane]:
    """etcd, the API server, the controllers and the scheduler, on the switch."""
    folder.mkdir()
    address = network.address.rpartition(".")[0] + ".254"
    plane = Plane(folder, network, programs(), address)
    authority = Authority.made(folder)
    key, certificate = authority.issued("api", addresses=[address, "10.96.0.1"])
    (folder / "api.key").write_bytes(key)
    (folder / "api.crt").write_bytes(certificate)
    accounts = ec.generate_private_key(ec.SECP256R1())
    (folder / "accounts.key").write_bytes(_pem(accounts))
    (folder / "accounts.pub").write_bytes(
        accounts.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    plane.identity(plane.kubeconfig, "admin", "system:masters")
    plane.identity(folder / "controllers.json", "system:kube-controller-manager")
    plane.identity(folder / "scheduler.json", "system:kube-scheduler")
    store = f"http://{address}:2379"
    words = {
        "etcd": ["--data-dir", f"{folder}/etcd", "--listen-client-urls", store, "--advertise-client-urls", store, "--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync"],
        "kube-apiserver": [
            f"--etcd-servers={store}", f"--bind-address={address}", f"--advertise-address={address}", "--secure-port=6443",
            "--service-cluster-ip-range=10.96.0.0/24", f"--tls-cert-file={folder}/api.crt", f"--tls-private-key-file={folder}/api.key",
            f"--client-ca-file={folder}/ca.crt", "--kubelet-preferred-address-types=InternalIP", f"--kubelet-client-certificate={folder}/admin.crt", f"--kubelet-client-key={folder}/admin.key",
            f"--service-account-key-file={folder}/accounts.pub", f"--service-account-signing-key-file={folder}/accounts.key",
            "--service-account-issuer=https://kubernetes.default", "--authorization-mode=Node,RBAC", f"--cert-dir={folder}",
        ],
        "kube-controller-manager": [
            f"--kubeconfig={folder}/controllers.json", f"--service-account-private-key-file={folder}/accounts.key", f"--root-ca-file={folder}/ca.crt",
            "--use-service-account-credentials=true", "--leader-elect=false", "--node-monitor-grace-period=12s", "--node-monitor-period=2s",
            f"--cert-dir={folder}", "--bind-address=127.0.0.1", "--port=0",
        ],
        "kube-scheduler": [f"--kubeconfig={folder}/scheduler.json", "--leader-elect=false", "--bind-address=127.0.0.1", "--port=0"],
    }  # fmt: skip
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, options in words.items():
            with (folder / f"{name}.log").open("wb") as log:
                started.append(subprocess.Popen(
                    ["nsenter", f"--net=/run/netns/{network.switch}", str(plane.root / "usr/bin" / name), *options],
                    stdout=log, stderr=log, start_new_session=True, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
                ))  # fmt: skip
            if name == "kube-apiserver":
                until(lambda: _answers(plane), 60)
        yield plane
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait(5)


def _answers(plane: Plane) -> bool:
    words = [
        plane.root / "usr/bin/kubectl",
        "--kubeconfig",
        plane.kubeconfig,
        "get",
        "--raw",
        "/readyz",
    ]
    return run.run(words, netns=plane.network.client, ok=range(256), quiet=True).stdout == "ok"


@contextmanager
def node(plane: Plane, machine: Machine, seccomp: str) -> Iterator[None]:
    """containerd, a kubelet and kube-proxy on a machine, which is ready some time later (:meth:`Plane.ready`); ``seccomp`` is the
    text of its profile labkit.json."""
    place = machine.folder
    (place / "kubelet/seccomp").mkdir(parents=True)
    (place / "kubelet/seccomp/labkit.json").write_text(seccomp)
    plane.identity(place / "kubeconfig", f"system:node:{machine.name}", "system:nodes")
    plane.identity(place / "proxy-config", "system:kube-proxy")
    (place / "network").mkdir()
    for name, text in _settings(plane, machine).items():
        (place / name).write_text(text)
    for other in plane.network.machines:
        if other != machine:
            machines.ip(machine.netns, f"route add {pods_of(other)} via {other.address}")
    run.run(["sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1"], netns=machine.netns)
    words = [
        "nsenter", f"--net=/run/netns/{machine.netns}", "unshare", "--mount", "--uts", "--propagation=private", "sh", "-c", ALONE, "sh",
        machine.name, str(place), machines.grouped(machine), str(plane.root), machine.address,
    ]  # fmt: skip
    env = {
        "PATH": f"{plane.root}/usr/sbin:{plane.root}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(place),
        "LD_LIBRARY_PATH": f"{plane.root}/usr/lib/x86_64-linux-gnu",
    }
    with (place / "kubelet.log").open("wb") as log:
        started = subprocess.Popen(words, stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        yield
    finally:
        machines.clear(machine)
        started.wait(5)


def pods_of(machine: Machine) -> str:
    """The subnet of a machine's pods."""
    return f"10.244.{machine.address.rpartition('.')[2]}.0/24"


def _settings(plane: Plane, machine: Machine) -> Mapping[str, str]:
    """The texts of the servers' settings, by their files."""
    place, registry = machine.folder, f"{plane.network.address}:5000"
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "address": machine.address,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": f"{plane.folder}/ca.crt"}},
        "authorization": {"mode": "Webhook"}, "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{machine.name}", "failSwapOn": False, "podPidsLimit": 1200,
        "nodeStatusUpdateFrequency": "3s", "nodeStatusReportFrequency": "3s", "allowedUnsafeSysctls": ["net.ipv4.ip_unprivileged_port_start"],
        "resolvConf": "", "imageGCHighThresholdPercent": 99, "maxPods": 60, "syncFrequency": "5s",  # which a pod that has ended may wait for
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }  # fmt: skip
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables", "clusterCIDR": "10.244.0.0/16",
        "clientConnection": {"kubeconfig": f"{place}/proxy-config"}, "healthzBindAddress": "127.0.0.1:10256", "hostnameOverride": machine.name,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }  # fmt: skip
    bridge = {
        "type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True,
        "ipam": {"type": "host-local", "dataDir": f"{place}/addresses", "ranges": [[{"subnet": pods_of(machine)}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }  # fmt: skip
    containerd = f"""version = 2
root = "{place}/containerd/root"
state = "{place}/containerd/state"
[grpc]
address = "{place}/containerd/socket"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSED}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plane.root}/usr/lib/cni"
conf_dir = "{place}/network"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."{registry}"]
endpoint = ["http://{registry}"]
[plugins."io.containerd.internal.v1.opt"]
path = "{place}/containerd/opt"
"""
    return {
        "kubelet.json": json.dumps(kubelet),
        "proxy.json": json.dumps(proxy),
        "network/lab.conflist": json.dumps(
            {"cniVersion": "0.4.0", "name": "lab", "plugins": [bridge]}
        ),
        "containerd.toml": containerd,
    }
