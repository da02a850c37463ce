"""skopeo, podman and tar read the images that umoci and labkit made."""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.farm.images import layout as image
from labkit.farm.images import store
from labkit.farm.rootfs.sandbox import sealed
from tests.conftest import open_place
from tests.outside.asking import needs, said

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def folder(farm: Lab) -> Iterator[Path]:
    """A folder with a copy of the farm's layout, which podman wants at a short path."""
    with open_place() as place:
        store.copy_layout(image.build(farm).value.layout, place / "layout")
        yield place


@needs("skopeo")
@pytest.mark.parametrize("site", ["red", "blue"])
def test_skopeo_copies_each_image(folder: Path, site: str) -> None:
    """Each blob has the digest by which it is named: skopeo looks, and so does sha256."""
    target = folder / f"copied-{site}"
    said("skopeo", "copy", f"oci:{folder}/layout:{site}", f"dir:{target}")
    manifest = json.loads((target / "manifest.json").read_text())
    for part in (manifest["config"], *manifest["layers"]):
        name = part["digest"].removeprefix("sha256:")
        assert hashlib.sha256((target / name).read_bytes()).hexdigest() == name
    told = json.loads(said("skopeo", "inspect", f"dir:{target}"))
    assert told["Layers"] == [layer["digest"] for layer in manifest["layers"]]
    assert told["Labels"]["labkit.site"] == site


PODMAN = """\
set -e
if mountpoint --quiet /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
cd {folder}
podman() {{
    command podman --root {folder}/root --runroot {folder}/run --tmpdir {folder}/tmp \\
        --cgroup-manager=cgroupfs --events-backend=none "$@"
}}
podman pull --quiet oci:layout:red > id
podman run --detach --name site --network none --cgroups=disabled --env LABKIT_REPLICA=red-1 \\
    --ulimit nofile={files}:{files} --ulimit nproc={processes}:{processes} "$(cat id)"
pid=$(podman inspect --format '{{{{.State.Pid}}}}' site)
for try in $(seq 50); do
    nsenter --net=/proc/$pid/ns/net perl -MIO::Socket::INET -e '
        alarm 5; $s = IO::Socket::INET->new("127.0.0.1:80") or exit 1;
        print $s "GET / HTTP/1.0\\r\\n\\r\\n"; print <$s>;' && break
    sleep 0.1
done
podman logs site >&2
podman rm --force --time 0 site
"""


@needs("podman", "crun")
def test_podman_starts_a_sites_image(farm: Lab, folder: Path) -> None:
    """An engine that knows nothing of labkit runs it as it is: the page and the header say so.

    crun refuses a hybrid cgroup layout, so the unified mount is hidden from it in a mount
    namespace that ends with the test. podman wants limits above the machine's own.
    """
    script = folder / "podman.sh"
    limits = {
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "processes": resource.getrlimit(resource.RLIMIT_NPROC)[1],
    }
    script.write_text(PODMAN.format(folder=folder, **limits))
    text = said(*sealed(["sh", script]))
    assert "HTTP/1.1 200 OK" in text
    assert "X-Labkit-Replica: red-1" in text
    assert farm.title(farm.sites[0]) in text
