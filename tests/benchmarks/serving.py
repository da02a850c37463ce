"""What a root file system that serves a page weighs, by the ways that are published and by labkit's; by hand, as root:

    python -m tests.benchmarks.serving [--folder FOLDER]

Each plain tool installs Debian's apache2 with what it needs, in one command, straight from the mirror; Docker's slim
image is labkit's own, in which apt-get installs it as a Dockerfile would. A row says how long it took, what ``du -sb``
counts as the tool leaves it, how much of that are downloaded packages and package indices, what the remaining files
are for the most part, and how many packages dpkg lists. Everything is made in a folder of its own and removed at the
end.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from labkit import Lab
from labkit.core import run, undo
from labkit.display import human_bytes
from labkit.farm import rootfs
from labkit.farm.rootfs import apt
from labkit.farm.rootfs.contents import Contents

APACHE = "apache2"
#: What a person would type, without the suite, the folder and the mirror.
PLAIN: dict[str, tuple[str, ...]] = {
    "debootstrap": ("debootstrap", f"--include={APACHE}"),
    "debootstrap, minbase": ("debootstrap", "--variant=minbase", f"--include={APACHE}"),
    "mmdebstrap, minbase": ("mmdebstrap", "--quiet", "--variant=minbase", f"--include={APACHE}"),
}
OWN = ("web", "web-slim", "smallest-openssh", "smallest")
#: Where downloaded packages and package indices lie.
FETCHED = ("var/cache/apt", "var/lib/apt/lists")
#: No service begins while it is installed.
POLICY = "#!/bin/sh\nexit 101\n"


def main() -> None:
    """Prints a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=None, help="where to build (default: a temporary one)")
    folder = Path(tempfile.mkdtemp(prefix="labkit-bench-", dir=parser.parse_args().folder))
    places = {name: str(folder / name) for name in ("state", "run", "cache", "outputs")}
    lab = Lab.of({"name": "serving", **places})
    try:
        print("way | s | du -sb | downloads and indices | the rest | mostly | packages")
        for name, words in PLAIN.items():
            target = folder / name.replace(", ", "-")
            tell(name, target, taken(lambda words=words, to=target: plain(lab, words, to)))  # type: ignore[misc]
        tell("Docker's slim", folder / "slim", taken(lambda: docker(lab, folder / "slim")))
        for name in OWN:
            seconds = taken(lambda name=name: rootfs.build(lab, name))  # type: ignore[misc]
            tell(f"labkit: {name}", rootfs.build(lab, name).value.path, seconds)
    finally:
        undo.unmake_all(lab)
        shutil.rmtree(folder)


def taken(work: Callable[[], object]) -> float:
    """How long it takes, in seconds."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def plain(lab: Lab, words: tuple[str, ...], target: Path) -> None:
    """A tool without labkit."""
    source = apt.ensure_lists(lab).main
    run.run([*words, source.suite, target, source.mirror], timeout=900, quiet=True)


def docker(lab: Lab, target: Path) -> None:
    """A copy of the slim image, and what a Dockerfile's two commands make of it."""
    run.run(["cp", "--archive", rootfs.build(lab, "docker-slim").value.path, target])
    shutil.copy("/etc/resolv.conf", target / "etc/resolv.conf")
    source = apt.ensure_lists(lab).main
    (target / "etc/apt/sources.list.d/debian.sources").unlink(missing_ok=True)
    line = f"deb {source.mirror} {source.suite} main\n"
    (target / "etc/apt/sources.list").write_text(line)
    policy = target / "usr/sbin/policy-rc.d"
    policy.write_text(POLICY)
    policy.chmod(0o755)
    for words in (("update",), ("install", "--yes", "--no-install-recommends", APACHE)):
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        run.run(["chroot", target, "apt-get", *words], env=env, timeout=900, quiet=True)
    policy.unlink()


def tell(name: str, root: Path, seconds: float) -> None:
    """Prints a row."""
    fetched = sum(size(root / place) for place in FETCHED)
    whole = size(root)
    contents = Contents.read(name, root)
    most = list(contents.by_kind().items())[:4]
    parts = ", ".join(f"{kind} {human_bytes(weight.size)}" for kind, weight in most)
    listed = len(run.run(["dpkg", f"--root={root}", "--get-selections"]).stdout.splitlines())
    cells = (human_bytes(whole), human_bytes(fetched), human_bytes(whole - fetched), parts, listed)
    print(" | ".join((name, f"{seconds:.1f}", *map(str, cells))), flush=True)


def size(place: Path) -> int:
    """The apparent size of a folder, hard links counted once (du(1)); 0 without one."""
    if not place.exists():
        return 0
    return int(run.run(["du", "--summarize", "--bytes", place]).stdout.split()[0])


if __name__ == "__main__":
    main()
