"""A bare Debian to try the project on, as somebody has it who has just installed a server.

    python3 -m tests.bare SUITE FOLDER COMMAND...     (as root)
    python3 -m tests.bare bookworm /var/tmp/bare 'sudo ./lab rebuild'

The system is a minbase of debootstrap's with sudo, and nothing else: no Python, no compiler, no library that a
server would not have. It has namespaces of its own for mounts, processes, IPC, host name, control groups and network
(slirp4netns leads out of it, so its ports and links are not the machine's), and a first process that
reaps orphans; with ``--no-reaper`` one that does not, as in ``docker run`` without ``--init``. Each command is run by
the shell of a person who may call sudo, in a clone of this repository's HEAD in their home folder, which nobody else may enter; with
``--root`` by root, in the same folder. The first that fails ends it, with its exit status. FOLDER keeps the system for the next call, which clones anew
what has changed since. Mirror, proxy, and pip's settings are this machine's own.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PERSON, HOME = "student", "/home/student"
SPACES = ("--mount", "--propagation=private", "--net", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--cgroup")  # fmt: skip
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "TERM": "dumb",
    "LANG": "C.UTF-8",
}
DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
#: What pip's settings may name that is a file or a folder of this machine.
PIP = ("index-url", "extra-index-url", "find-links", "cert", "proxy", "trusted-host")


def main() -> int:
    """Makes the system when it is not there, brings the clone up to date, and runs the commands in it."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.bare", description=__doc__)
    parser.add_argument("suite")
    parser.add_argument("folder", type=Path)
    parser.add_argument("commands", nargs="+", metavar="COMMAND")
    parser.add_argument("--no-reaper", action="store_true")
    parser.add_argument("--root", action="store_true")
    given = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # nothing of the system stays then, either
    needed = ("debootstrap", "slirp4netns", "unshare", "nsenter", "git")
    if lacking := [program for program in needed if not shutil.which(program)]:
        parser.error(f"install {', '.join(lacking)} first")
    system = given.folder.resolve()
    if not Path(f"{system}.made").exists():
        make(given.suite, system)
    clone(system)
    return enter(system, given)


# -- making the system -----------------------------------------------------------------------


def make(suite: str, system: Path) -> None:
    """The system is in its folder; a mark beside it says so, last."""
    sources = mirrors(suite)
    call("debootstrap", "--variant=minbase", "--include=sudo", suite, str(system), sources[0][0])
    lines = [f"deb {mirror} {name} main\n" for mirror, name in sources]
    (system / "etc/apt/sources.list").write_text("".join(lines), encoding="utf-8")
    settings = out("apt-config", "dump").splitlines()
    ways = [line for line in settings if re.match(r"Acquire::https?::", line)]
    (system / "etc/apt/apt.conf.d/99machine").write_text("\n".join(ways), encoding="utf-8")
    # As in Debian's own container images: what a power cut would leave does not matter here.
    (system / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n", encoding="utf-8")
    call("chroot", str(system), "useradd", "--create-home", "--shell", "/bin/bash", PERSON)
    (system / f"home/{PERSON}").chmod(0o700)
    rule = system / "etc/sudoers.d/student"
    rule.write_text(f"{PERSON} ALL=(ALL) NOPASSWD: ALL\n", encoding="utf-8")
    rule.chmod(0o440)
    Path(f"{system}.made").touch()


def mirrors(suite: str) -> list[tuple[str, str]]:
    """Where this machine's apt gets Debian from, for a suite, its updates and its security fixes."""
    own = platform.freedesktop_os_release()["VERSION_CODENAME"]
    shown = "$(CREATED_BY) $(RELEASE) $(REPO_URI)"
    rows = [line.split() for line in out("apt-get", "indextargets", "--format", shown).splitlines()]
    found: dict[str, str] = {}
    for row in rows:
        if row[0] == "Packages" and re.fullmatch(f"{own}(-updates|-security)?", row[1]):
            found.setdefault(row[1].removeprefix(own).lstrip("-"), row[2])
    if "" not in found:
        sys.exit("apt names no mirror of Debian: call apt-get update first")
    names = {"": suite, "updates": f"{suite}-updates", "security": f"{suite}-security"}
    return [(found[part], name) for part, name in names.items() if part in found]


def pip_settings(system: Path) -> list[str]:
    """pip's settings as this machine has them; a file that they name is copied, of folders the paths are returned."""
    shown = out(sys.executable, "-m", "pip", "config", "list")
    rows = re.findall(r"^(?:\S*\.)?([a-z-]+)=(['\"])(.*)\2$", shown, re.MULTILINE)
    found = {key: value.replace("\\n", " ") for key, _, value in rows if key in PIP}
    if "cert" in found:
        shutil.copyfile(found["cert"], system / "etc/pip.crt")
        found["cert"] = "/etc/pip.crt"
    lines = ["[global]", *(f"{key} = {value}" for key, value in found.items()), ""]
    (system / "etc/pip.conf").write_text("\n".join(lines), encoding="utf-8")
    places = " ".join(found.get(key, "") for key in ("find-links", "extra-index-url", "index-url"))
    named = re.findall(r"(?:(?<=file://)|(?<=^)|(?<= ))(/[^ :]+)", places)
    # An index names its files relative to itself.
    folders = {path.removesuffix("/").removesuffix("/simple") for path in named}
    return sorted(path for path in folders if Path(path).is_dir())


def clone(system: Path) -> None:
    """The person has a clone of this repository's HEAD; what was made in it before (.venv, outputs) stays."""
    folder = system / HOME.lstrip("/") / "labkit"
    git = ["git", "-c", "safe.directory=*"]
    if not folder.exists():
        call(*git, "clone", "--quiet", "--no-hardlinks", str(PROJECT), str(folder))
    call(*git, "-C", str(folder), "fetch", "--quiet", str(PROJECT), "HEAD")
    call(*git, "-C", str(folder), "reset", "--quiet", "--hard", "FETCH_HEAD")
    call("chroot", str(system), "chown", "-R", f"{PERSON}:", HOME)


# -- running in it ---------------------------------------------------------------------------


def enter(system: Path, given: argparse.Namespace) -> int:
    """Runs the commands in new namespaces, with a way out for as long."""
    places = pip_settings(system)
    with tempfile.TemporaryDirectory() as folder, control_groups() as groups:
        ready = Path(folder, "ready")
        os.mkfifo(ready)
        inside = [sys.executable, str(Path(__file__).resolve()), "--inside", str(system), str(ready),
                  "keep" if given.no_reaper else "reap", "root" if given.root else PERSON,
                  ":".join(map(str, groups)), str(len(places)), *places, *given.commands]  # fmt: skip
        join = 'for place in $0; do echo $$ >"$place/cgroup.procs"; done; exec "$@"'
        joined = ["sh", "-ec", join, " ".join(map(str, groups))]
        spaces = subprocess.Popen([*joined, "unshare", *SPACES, "--", *inside])
        network = None
        try:
            first = Path(f"/proc/{spaces.pid}/task/{spaces.pid}/children")
            while not first.read_text(encoding="ascii").split():
                time.sleep(0.01)
            pid = first.read_text(encoding="ascii").split()[0]
            network = subprocess.Popen(
                ["slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", pid, "tap0"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            until_up(pid)
            ready.write_text("go", encoding="ascii")
            return spaces.wait()
        finally:
            for process in (spaces, network):
                if process and process.poll() is None:
                    process.kill()
                    process.wait()


@contextmanager
def control_groups() -> Iterator[list[Path]]:
    """A group of the system's own in each hierarchy of this machine."""
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines()]
    mounted = [Path(row[4]) for row in rows if row[row.index("-") + 1] in ("cgroup", "cgroup2")]
    made = [hierarchy / f"bare-{os.getpid()}" for hierarchy in mounted]
    for group in made:
        group.mkdir()
        for name in (
            "cpuset.cpus",
            "cpuset.mems",
        ):  # version 1 takes no process before they are set
            if (group / name).exists() and (group.parent / name).exists():
                (group / name).write_text((group.parent / name).read_text("ascii"), "ascii")
    try:
        yield made
    finally:
        time.sleep(0.5)  # what was killed is in its group for a moment yet
        for group in made:
            for folder, _, _ in os.walk(group, topdown=False):
                Path(folder).rmdir()


def until_up(pid: str) -> None:
    """Returns when the namespace has its way out."""
    for _ in range(500):
        if "tap0" in Path(f"/proc/{pid}/net/route").read_text(encoding="ascii"):
            return
        time.sleep(0.02)
    sys.exit("slirp4netns gives the system no network")


def inside(words: list[str]) -> int:
    """The first process: builds the system's /dev, /proc, /run, turns to its root, and runs the commands."""
    system, ready, reaping, person, groups, number, *rest = words
    places, commands = rest[: int(number)], rest[int(number) :]
    Path(ready).read_text(encoding="ascii")
    mount(system, places, groups.split(":"))
    os.chdir(system)
    call("pivot_root", ".", "mnt")
    os.chroot(".")
    call("umount", "--lazy", "/mnt")
    os.chdir(f"{HOME}/labkit")
    for command in commands:
        print(f"== {person}: {command}", file=sys.stderr, flush=True)
        begun = time.monotonic()
        status = run(person, command, reaping == "reap")
        took = f"{time.monotonic() - begun:.1f} s"
        print(f"== ended with {status} after {took}", file=sys.stderr, flush=True)
        if status:
            return status
    return 0


def run(person: str, command: str, reaping: bool) -> int:
    """A command in the person's shell; orphans that end meanwhile are reaped, or not."""
    home = "/root" if person == "root" else HOME
    who = ["runuser", "--user", person, "--"] if person != "root" else []
    environment = {**ENVIRONMENT, "HOME": home, "USER": person, "LOGNAME": person}
    started = subprocess.Popen([*who, "/bin/sh", "-c", command], env=environment)
    if not reaping:
        return started.wait()
    while True:
        pid, status = os.wait()
        if pid == started.pid:
            return os.waitstatus_to_exitcode(status)


def mount(system: str, places: list[str], groups: list[str]) -> None:
    """What a booted system has besides its files; the old root is let go of at once, at /mnt."""
    lines = [
        "mount --bind . .", "cd .", "cd \"$PWD\"",
        "mount -t proc proc proc", "mount -t sysfs sysfs sys",
        *([] if Path("/sys/fs/cgroup/cgroup.procs").exists() else ["mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup"]),
        *(f"mkdir -p .{place}; mount --bind {group} .{place}" for group in groups for place in [str(Path(group).parent)]),
        "mount -t tmpfs -o mode=755 tmpfs dev", "mkdir dev/pts dev/shm",
        "mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts",
        "mount -t tmpfs -o mode=1777 tmpfs dev/shm",
        *(f"mknod -m 666 dev/{name} c 1 {minor}" for name, minor in DEVICES.items()),
        "mknod -m 666 dev/tty c 5 0", "ln -s pts/ptmx dev/ptmx", "ln -s /proc/self/fd dev/fd",
        *(f"ln -s fd/{number} dev/{name}" for number, name in enumerate(("stdin", "stdout", "stderr"))),
        "mount -t tmpfs -o mode=755 tmpfs run", "mkdir run/lock",
        *(f"mkdir -p .{shlex.quote(place)}; mount --rbind -o ro {shlex.quote(place)} .{shlex.quote(place)}" for place in places),
        "ip link set lo up 2>/dev/null || true", "hostname bare",
    ]  # fmt: skip
    call("sh", "-ec", "\n".join([f"cd {shlex.quote(system)}", *lines]))
    Path(system, "etc/hostname").write_text("bare\n", encoding="ascii")
    Path(system, "etc/hosts").write_text("127.0.0.1 localhost bare\n", encoding="ascii")
    Path(system, "etc/resolv.conf").write_text("nameserver 10.0.2.3\n", encoding="ascii")


def call(*words: str) -> None:
    """Runs a program, which must not fail; what it prints is shown when it does."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout[-4000:])
        sys.exit(f"{shlex.join(words)[:200]} ended with {done.returncode}")


def out(*words: str) -> str:
    """What a program prints."""
    return subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout.decode()


if __name__ == "__main__":
    sys.exit(inside(sys.argv[2:]) if sys.argv[1:2] == ["--inside"] else main())
