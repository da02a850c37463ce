"""A machine to try `./lab` on: this one, below an overlay that ends with the test, with a package
archive and a wheel that are made here. Nothing is fetched from anywhere."""

from __future__ import annotations

import hashlib
import io
import textwrap
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from labkit.core import run

PROJECT = Path(__file__).parents[1]
#: Where the clone is on the scratch machine: a folder that is no path in ASCII.
CLONE = "/srv/clône"
#: The service that the package starts when it may: it leaves this file.
STARTED = "/run/labkit-test-started"
POLICY = "/usr/sbin/policy-rc.d"

MOUNT = """
set -e
mount -t tmpfs tmpfs "$1"
number=0
for place in / /usr /var /etc; do
    [ "$place" = / ] || mountpoint -q "$place" || continue
    number=$((number + 1))
    mkdir -p "$1/up$number" "$1/scratch$number" "$1/root"
    mount -t overlay overlay -o "lowerdir=$place,upperdir=$1/up$number,workdir=$1/scratch$number" "$1/root$place"
done
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
mount -t tmpfs tmpfs "$1/root/run"
mount -t tmpfs tmpfs "$1/root/tmp"
mount -t tmpfs tmpfs "$1/root/srv"
cd "$1/root"
mkdir -p srv/old
pivot_root . srv/old  # and no chroot, in which invoke-rc.d starts nothing at all
cd /
umount --lazy srv/old
touch /run/ready
i=0; while [ $((i += 1)) -lt 600 ]; do sleep 1; done  # the shell stays: it reaps orphans
"""

POSTINST = f"""#!/bin/sh
set -e
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -sf /lib/systemd/system/labkit-test.service /etc/systemd/system/multi-user.target.wants/labkit-test.service
ln -sf /lib/systemd/system/labkit-test.service /etc/systemd/system/labkit-alias.service
mkdir -p /etc/systemd/user/sockets.target.wants
ln -sf /usr/lib/systemd/user/labkit-test.socket /etc/systemd/user/sockets.target.wants/labkit-test.socket
[ ! -e /etc/rc2.d/S01own ] || mv /etc/rc2.d/S01own /etc/rc2.d/S02own
[ ! -d /etc/apache2/mods-enabled ] || ln -sf ../mods-available/test.load /etc/apache2/mods-enabled/test.load
update-rc.d labkit-test defaults
invoke-rc.d labkit-test start || exit $?
test -e {STARTED} && echo 'the service was started' || echo 'the service was not started'
"""
SERVICE = f"""#!/bin/sh
### BEGIN INIT INFO
# Provides: labkit-test
# Required-Start:
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop:
### END INIT INFO
touch {STARTED}
"""

WHEEL = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "labkit"
version = "0"
"""
BACKEND = """\
import zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "labkit-0-py3-none-any.whl"
    info = "labkit-0.dist-info/"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("labkit.pth", __file__.rpartition("/")[0])
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: labkit\\nVersion: 0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "entry_points.txt", "[console_scripts]\\nlabkit = labkit.cli:main\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""
CLI = """\
import os, sys
def main():
    import tiny
    print(tiny.WORD, os.getuid(), sys.argv[1:])
"""


class Machine:
    """A scratch machine that is up."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def path(self, name: str) -> Path:
        """A path on the machine, as seen from outside."""
        return Path(f"/proc/{self.pid}/root") / name.lstrip("/")

    def inside(self, *argv: str) -> list[str]:
        """The arguments that run a program on the machine."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--", *argv]

    def run(self, *argv: str, ok: tuple[int, ...] = (0,), **env: str) -> run.Done:
        """Runs a program on the machine to its end."""
        return run.run(self.inside(*argv), ok=ok, env={**SETTINGS, **env}, timeout=120)

    def lab(self, *words: str, ok: tuple[int, ...] = (0,), **env: str) -> run.Done:
        """Calls the clone's ./lab."""
        return self.run(f"{CLONE}/lab", *words, ok=ok, **env)

    def write(self, name: str, text: str | bytes, mode: int = 0o644) -> Path:
        """Writes a file on the machine."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)
        return path


#: A person's settings on the machine: pip's way to its index, and a locale that is not installed.
SETTINGS: Mapping[str, str] = {
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/srv/wheels",
    "LC_ALL": "tr_TR.UTF-8",
}


@contextmanager
def scratch_machine(folder: Path) -> Iterator[Machine]:
    """A machine with a clone of ./lab, its package not installed yet."""
    place = folder / "machine"
    place.mkdir()
    spaces = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
    unshare = run.start([*spaces, "sh", "-c", MOUNT, "sh", str(place)])
    try:
        machine = Machine(_child(unshare))
        while not machine.path("/run/ready").exists():
            assert unshare.poll() is None
        _fill(machine)
        yield machine
    finally:
        unshare.kill()
        unshare.wait()


def _child(process: Popen[str]) -> int:
    """The first process inside: the one that unshare forked."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (words := children.read_text().split()):
        assert process.poll() is None
    return int(words[0])


def _fill(machine: Machine) -> None:
    text = (PROJECT / "lab").read_text(encoding="utf-8")
    machine.write(f"{CLONE}/lab", text, 0o755)
    machine.write(f"{CLONE}/labkit/__init__.py", "")
    machine.write(f"{CLONE}/labkit/cli.py", CLI)
    machine.write(f"{CLONE}/labkit/debian-packages.txt", "labkit-test  # for a test\n")
    machine.write(f"{CLONE}/pyproject.toml", PYPROJECT)
    machine.write(f"{CLONE}/backend.py", BACKEND)
    lock(machine, wheel(machine, "ready"))
    archive(machine)


def lock(machine: Machine, digest: str) -> None:
    """Pins the wheel to a hash."""
    machine.write(f"{CLONE}/requirements.lock", f"tiny==1.0 --hash=sha256:{digest}\n")


def wheel(machine: Machine, word: str) -> str:
    """Makes the library that the clone needs; returns its hash."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, text in {
            "tiny.py": f"WORD = {word!r}\n",
            "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
            "tiny-1.0.dist-info/WHEEL": WHEEL,
            "tiny-1.0.dist-info/RECORD": "",
        }.items():
            file.writestr(
                zipfile.ZipInfo(name), text
            )  # without a time: the same word, the same bytes
    machine.write("/srv/wheels/tiny-1.0-py3-none-any.whl", data.getvalue())
    return hashlib.sha256(data.getvalue()).hexdigest()


def archive(machine: Machine) -> None:
    """Makes the package and its archive the only one that the machine's apt knows."""
    control = (
        "Package: labkit-test\nVersion: 1\nArchitecture: all\nMaintainer: test\nDescription: test\n"
    )
    machine.write("/srv/deb/DEBIAN/control", control)
    machine.write("/srv/deb/DEBIAN/postinst", POSTINST, 0o755)
    machine.write("/srv/deb/etc/init.d/labkit-test", SERVICE, 0o755)
    machine.run("dpkg-deb", "--build", "--root-owner-group", "/srv/deb", "/srv/archive.deb")
    package = machine.path("/srv/archive.deb").read_bytes()
    machine.write("/srv/archive/labkit-test.deb", package)
    index = textwrap.dedent(f"""\
        {control.rstrip()}
        Filename: ./labkit-test.deb
        Size: {len(package)}
        SHA256: {hashlib.sha256(package).hexdigest()}
        """).replace("        ", "")
    machine.write("/srv/archive/Packages", index)
    for source in machine.path("/etc/apt/sources.list.d").glob("*"):
        source.unlink()
    machine.write("/etc/apt/sources.list", "deb [trusted=yes] file:/srv/archive ./\n")
    machine.path(POLICY).unlink(missing_ok=True)
    for name in ("init", "runlevel"):  # as on a machine that booted
        machine.path(f"/sbin/{name}").unlink(missing_ok=True)
        machine.write(f"/sbin/{name}", "#!/bin/sh\necho N 2\n", 0o755)
