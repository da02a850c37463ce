"""The registry from which a cluster's nodes take the lab's images: the lab's own, or one that is named.

The images are copied with their digests (skopeo copy --preserve-digests): what a node pulls is byte for byte what umoci made.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from labkit.core import daemon, run
from labkit.core.daemon import Daemon
from labkit.core.files import write_atomically
from labkit.errors import MachineError
from labkit.kernel.netns import inside
from labkit.model.lab import Lab
from labkit.records import Record

#: The port of the lab's own registry.
PORT = 5000
#: What a registry without TLS is named with.
PLAIN = "http://"
#: The user that the lab's own registry runs as.
USER = "daemon"


class Registry(Record):
    """Where the images are: ``HOST:PORT``, the first part of the repositories' names, and whether it speaks TLS."""

    host: str
    prefix: str
    tls: bool = True

    @classmethod
    def named(cls, lab: Lab) -> Registry:
        """The registry that the lab names."""
        place = lab.engine.registry.removeprefix(PLAIN)
        host, _, prefix = place.partition("/")
        return cls(
            host=host,
            prefix=f"{prefix}/{lab.name}".lstrip("/"),
            tls=not lab.engine.registry.startswith(PLAIN),
        )

    @property
    def insecure(self) -> str:
        """The host, where Docker has to be told that it speaks no TLS; else ''."""
        return "" if self.tls else self.host

    def repository(self, tag: str) -> str:
        """The repository of a tag of the lab's."""
        return f"{self.host}/{self.prefix}/{tag}"

    def reference(self, tag: str, digest: str) -> str:
        """The image of a tag, by its digest."""
        return f"{self.repository(tag)}@{digest}"

    def has(self, lab: Lab, tag: str, digest: str) -> bool:
        """Whether it has the manifest of that digest."""
        verify, image = f"--tls-verify={str(self.tls).lower()}", self.reference(tag, digest)
        words = ("skopeo", "inspect", "--raw", verify, f"docker://{image}")
        return run.run(words, netns=lab.netns, ok=range(256), quiet=True).status == 0

    def push(self, lab: Lab, layout: Path, tag: str) -> None:
        """Copies a tag of an OCI layout to it."""
        words = (
            "skopeo", "copy", "--quiet", "--preserve-digests", f"--dest-tls-verify={str(self.tls).lower()}",
            f"oci:{layout}:{tag}", f"docker://{self.repository(tag)}:latest",
        )  # fmt: skip
        remedy = "let it be reached, log in by `skopeo login`, or name another: --set engine.registry=[http://]HOST:PORT"
        run.run(words, netns=lab.netns, timeout=600, remedy=remedy)


def own(lab: Lab) -> Daemon:
    """The lab's own registry: Debian's docker-registry."""
    place = lab.run_dir / "registry"
    return Daemon(
        name="registry",
        argv=("docker-registry", "serve", "--", str(place / "registry.yml")),
        config=place / "registry.yml",
        pidfile=place / "registry.pid",
        log=lab.state_dir / "registry" / "registry.log",
        netns=lab.netns,
        foreground=True,
        user=USER,
    )


def configuration(lab: Lab, address: str) -> str:
    """docker-registry's configuration (JSON is YAML); images lie in the lab's state."""
    return json.dumps(
        {
            "version": "0.1",
            "storage": {
                "filesystem": {"rootdirectory": str(lab.state_dir / "registry" / "images")}
            },
            "http": {"addr": f"{address}:{PORT}"},
            "log": {"level": "warn"},
        },
        indent=1,
    )


def start(lab: Lab, address: str) -> bool:
    """Makes the lab's own registry run at an address of the lab's host side; whether it had to be started."""
    if run.which("docker-registry") is None:
        raise MachineError(
            "docker-registry", "is not installed, and the lab names no registry",
            "apt-get install docker-registry, and disable its service; or name one: --set engine.registry=[http://]HOST:PORT",
            "command -v docker-registry", code="machine.no-registry",
        )  # fmt: skip
    server, place = own(lab), lab.state_dir / "registry" / "images"
    place.mkdir(parents=True, exist_ok=True)
    shutil.chown(place, USER)
    text = configuration(lab, address)
    if not server.config.exists() or server.config.read_text(encoding="utf-8") != text:
        daemon.stop(lab, server)
        write_atomically(server.config, text)
        server.config.chmod(0o644)
    registry = at(lab, address)
    return daemon.start(lab, server, lambda: _problem(lab, registry))


def stop(lab: Lab) -> bool:
    """Ends the lab's own registry and removes its images; whether it ran."""
    ran = daemon.stop(lab, own(lab))
    if (place := lab.state_dir / "registry").exists():
        shutil.rmtree(place)
    return ran


def at(lab: Lab, address: str) -> Registry:
    """The lab's own registry at an address of its host side."""
    return Registry(host=f"{address}:{PORT}", prefix=lab.name, tls=False)


def of(lab: Lab, node: str, *, serving: bool) -> Registry:
    """The registry that the lab names, or its own one (``serving``: which is made to run) at the address by which the lab's host
    side reaches the node at an address."""
    if lab.engine.registry:
        return Registry.named(lab)
    address = inside(lab.netns, _own_address, node)
    if serving:
        start(lab, address)
    return at(lab, address)


def _own_address(other: str) -> str:
    """The address by which this machine speaks to another one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.connect((other, 9))
        return str(channel.getsockname()[0])


def references(
    lab: Lab, where: Registry, images: Mapping[str, tuple[Path, str]], *, push: bool
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The reference of each tag in a registry, and the tags that were copied there, because it did not have them.

    :param images: each tag's layout and digest (:func:`labkit.cluster.deployment.images`).
    """
    missing = [
        tag for tag, (_, digest) in images.items() if push and not where.has(lab, tag, digest)
    ]
    for tag in missing:
        where.push(lab, images[tag][0], tag)
    return {tag: where.reference(tag, digest) for tag, (_, digest) in images.items()}, tuple(
        missing
    )


def _problem(lab: Lab, registry: Registry) -> str | None:
    words = ("curl", "--silent", "--fail", "--max-time", "2", f"http://{registry.host}/v2/")
    done = run.run(words, netns=lab.netns, ok=range(256), quiet=True)
    return f"does not answer at {registry.host}" if done.status else None
