"""The doctor: what keeps a machine from running the lab, each with a remedy; nothing is changed."""

from __future__ import annotations

import gzip
import json
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer

import pytest

from labkit import Lab, doctor
from labkit.core import probes, run, undo
from labkit.doctor import machine, programs
from labkit.errors import CommandError, LabkitError, MachineError
from labkit.farm.containers import container
from labkit.kernel import cgroups
from tests.servers import served
from tests.waiting import until

SERVER = """
import socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    print("up", flush=True)
    time.sleep(60)
"""
V1 = "34 25 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n"
V2 = "35 25 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(
    ("mountinfo", "layout", "writable"),
    [
        ("", "", False),
        ("22 1 0:20 / /proc rw - proc proc rw\n", "", False),
        (V1, "version 1", True),
        (V2, "version 2", True),
        (V1 + V2, "hybrid: version 1 with version 2 beside it", True),
        (V2.replace("/sys/fs/cgroup rw", "/sys/fs/cgroup ro"), "version 2", False),
        (V2.replace("cgroup2 rw", "cgroup2 ro"), "version 2", False),
    ],
)
def test_the_layout_of_the_cgroups_is_read_from_the_mounts(
    mountinfo: str, layout: str, writable: bool
) -> None:
    """Version 1, version 2, both, or none; and whether a container's own can be made."""
    assert cgroups.mounted(mountinfo) == (layout, writable)


def test_the_list_of_packages_names_alternatives_and_has_every_program() -> None:
    """One entry a line, with those that may stand for it; what labkit starts is what ./lab installs."""
    text = "# nothing\n\n   # nothing\na | b # either\nc\na|b|c"
    assert programs.parse_list(text) == [("a", "b"), ("c",), ("a", "b", "c")]
    listed = {name for entry in programs.parse_list(programs.LIST.read_text()) for name in entry}
    assert set(programs.PROGRAMS.values()) <= listed


@pytest.mark.root
def test_this_machine_can_run_the_lab(make_lab: Callable[..., Lab]) -> None:
    """On a machine that ./lab made ready every need has a check that holds; nothing is left of having looked."""
    lab = make_lab()
    result = doctor.examine(lab)
    assert [check.name for check in result.checks] == [f"doctor.{n.name}" for n in doctor.NEEDS]
    assert result.value.blockers == ()
    assert result.holds
    assert "this machine can run the lab" in result.summary
    assert not result.changed
    assert not [point for point in undo.mount_points() if "labkit-doctor" in point]
    assert not Path("/run/netns", lab.host.netns).exists()
    assert not (lab.state_dir.exists() or lab.run_dir.exists())


@contextmanager
def as_nobody() -> Iterator[None]:
    """The block runs as a user without rights."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.root
@pytest.mark.parametrize("look", [machine.root, machine.overlay, machine.network, programs.browser])
def test_who_is_not_root_is_told_so(look: Callable[[Lab], str]) -> None:
    """What only root can try is a blocker for everybody else, with sudo as the remedy."""
    with as_nobody(), pytest.raises(MachineError, match="needs root") as caught:
        look(Lab())
    assert "sudo" in caught.value.remedy


@pytest.mark.parametrize("key", ["state", "outputs"])
def test_too_little_room_names_the_place(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """What is free, what is needed, and the key that moves it elsewhere."""
    monkeypatch.setitem(machine.NEEDED, key, 10**18)
    with pytest.raises(MachineError, match="free, 1,000,000,000") as caught:
        machine.free_space(Lab.load(), key)
    assert f"set {key} in lab.toml" in caught.value.remedy


def test_a_taken_port_names_its_process(tmp_path: Path) -> None:
    """This very process has it: the doctor says so, with a remedy. A wiki elsewhere needs none here, and a listener that
    was started with one of the lab's files is the lab's."""
    folders = {"run": str(tmp_path), "state": str(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as server:
        lab = Lab.load(None, wiki_port=server.getsockname()[1], **folders)
        elsewhere = Lab.load(None, wiki_port=lab.wiki.port, wiki_url="http://wiki.test/api.php")
        assert "not needed" in machine.free_port(elsewhere, "wiki.port")
        with pytest.raises(MachineError, match=rf"process {os.getpid()}\)") as caught:
            machine.free_port(lab, "wiki.port")
    assert "set wiki.port in lab.toml" in caught.value.remedy
    assert "is free" in machine.free_port(lab, "wiki.port")
    lab.run_dir.mkdir()
    script = lab.run_dir / "server.py"
    script.write_text(SERVER)
    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = run.start(["python3", script, str(lab.wiki.port)], output=sink)
    try:
        until(lambda: log.read_text() or process.poll() is not None)
        assert "this lab's python3" in machine.free_port(lab, "wiki.port")
    finally:
        process.kill()
        process.wait()


@pytest.mark.root
def test_a_subnet_that_the_machine_routes_names_the_interface(lab: Lab) -> None:
    """An interface of somebody else's has the farm's network."""
    from labkit.farm.network import host
    from tests.netlink import netlink

    host.up(lab)
    with netlink(lab.netns) as ipr:
        ipr.link("add", ifname="other0", kind="bridge")
        index = ipr.link_lookup(ifname="other0")[0]
        ipr.addr("add", index=index, address="10.60.0.77", prefixlen=25)
        ipr.link("set", index=index, state="up")
    with pytest.raises(MachineError, match="through interface other0") as caught:
        machine.subnet(lab)
    assert "network.subnet" in caught.value.remedy


def test_a_mirror_that_does_not_answer_is_named() -> None:
    """The mirror's address, what happened, and the key that names another."""

    class Mute(BaseRequestHandler):
        """Hangs up."""

    with served(TCPServer(("127.0.0.1", 0), Mute)) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/debian"
        with pytest.raises(LabkitError, match="does not answer") as caught:
            programs.mirror(Lab.load(None, mirror=address))
    assert "rootfs.mirror" in caught.value.remedy


def test_missing_packages_and_programs_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each by name, with the command that installs them."""
    wanted = tmp_path / "list"
    wanted.write_text("coreutils\nno-such-package-a # x\nno-such-b | dpkg\n")
    monkeypatch.setattr(programs, "LIST", wanted)
    monkeypatch.setattr(programs, "PROGRAMS", {"no-such-program": "x", "sh": "dash"})
    programs.installed.cache_clear()
    with pytest.raises(MachineError, match=r"^no-such-package-a: 1 of 3") as caught:
        programs.packages(Lab())
    assert "./lab --packages" in caught.value.remedy
    with pytest.raises(MachineError, match=r"^no-such-program: not on this machine"):
        programs.present(Lab())
    programs.installed.cache_clear()


@pytest.mark.root
def test_a_blocked_machine_says_so_on_the_command_line(tmp_path: Path) -> None:
    """The exit status is 1, and the JSON names each blocker with its remedy."""
    code = (
        "import sys; from labkit.cli import main; sys.argv = ['labkit', 'doctor', '--json']; main()"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        file = tmp_path / "lab.toml"
        file.write_text(f"[wiki]\nport = {server.getsockname()[1]}\n")
        done = run.run(
            [sys.executable, "-c", code], ok=(1,), cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
    blockers = json.loads(done.stdout)["value"]["blockers"]
    assert "doctor.ports.wiki" in [blocker["check"] for blocker in blockers]


@pytest.mark.root
def test_a_library_that_the_browsers_driver_lacks_is_told(tmp_path: Path) -> None:
    """The doctor goes the stages' way: a driver that does not start is a blocker that names the library."""
    (library,) = {
        line.split()[2]
        for driver in Path(sys.prefix).glob("lib/python*/site-packages/playwright/driver/node")
        for line in run.run(["ldd", driver]).stdout.splitlines()
        if "libatomic" in line
    }
    empty = tmp_path / "empty"
    empty.touch()
    code = (
        "from labkit import Lab; from labkit.doctor import programs; print(programs.browser(Lab()))"
    )
    words = [sys.executable, "-c", code]
    hidden = 'mount --bind "$0" "$(readlink -f "$1")"; shift; exec "$@"'
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    assert "rendered a page" in run.run(words, env=env).stdout
    unshared = ["unshare", "--mount", "sh", "-ec", hidden, empty, library, *words]
    with pytest.raises(CommandError) as caught:
        run.run(unshared, env=env)
    assert "libatomic" in caught.value.reason
    assert "./lab doctor" in caught.value.reason


@pytest.mark.parametrize("known", [None, "allow log"])
def test_a_kernel_that_filters_no_calls_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str | None
) -> None:
    """It has no such file, or cannot refuse a call in it."""
    monkeypatch.setattr(machine, "FILTERS", tmp_path / "actions_avail")
    if known is not None:
        machine.FILTERS.write_text(known)
    with pytest.raises(MachineError, match="cannot refuse") as caught:
        machine.system_calls(Lab())
    assert caught.value.code == "machine.no-seccomp"


@pytest.mark.root
@pytest.mark.parametrize("option", ["nodev", "noexec"])
def test_a_cache_where_builds_cannot_work_is_told_with_the_mount_option(
    make_lab: Callable[..., Lab], tmp_path: Path, option: str
) -> None:
    """A program and a device are tried in it as in a build, and not only its free bytes."""
    run.run(["mount", "-t", "tmpfs", "-o", option, "labkit-test", tmp_path])
    try:
        lab = make_lab(cache=str(tmp_path / "cache"))
        with pytest.raises(MachineError, match=f"mount option {option}\n") as caught:
            machine.builds(lab)
        assert caught.value.value.startswith(f"{tmp_path}, where ")
        assert not any(tmp_path.iterdir())
        run.run(["mount", "-o", "remount,dev,exec", tmp_path])
        assert "tried" in machine.builds(lab)
    finally:
        run.run(["umount", tmp_path])


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "mode", "wrong"),
    [
        (stat.S_IFCHR, 0o666, ""),
        (stat.S_IFCHR, 0o644, "has the mode 644"),
        (stat.S_IFREG, 0o666, "is not a device"),
        (0, 0, "No such file"),
    ],
)
def test_a_device_that_is_not_what_it_is_to_be_is_told(
    open_folder: Path, kind: int, mode: int, wrong: str
) -> None:
    """Not there, a file, or not for everybody: each with the commands that make it anew."""
    for name, number in probes.DEVICES.items():
        own = (kind, mode) if name == "null" else (stat.S_IFCHR, 0o666)
        if own[0]:
            os.mknod(open_folder / name, own[0] | own[1], os.makedev(*number))
            (open_folder / name).chmod(own[1])
    if not wrong:
        probes.devices(open_folder)
        return
    with pytest.raises(MachineError, match=wrong) as caught:
        probes.devices(open_folder)
    run.run(["sh", "-c", caught.value.remedy])
    probes.devices(open_folder)


@pytest.mark.parametrize(
    ("version", "changelog", "open_ones"),
    [
        ("1.1.5+ds1-1+deb12u1", "CVE-2024-21626: several", 3),
        ("1.1.5+ds1-1", "nothing", 4),
        ("1.1.15+ds1-2+deb13u1", "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881", 0),
        ("1.2.7+ds1-1", "", 3),
        ("1.2.8+ds1-1", "", 0),
        ("1.4.0~rc.2-1", "", 3),
        ("2.0-1", "", 0),
    ],
)
def test_what_the_installed_runc_has_fixed_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, changelog: str, open_ones: int
) -> None:
    """By the package's changelog, or by its version; what is not fixed has the reason that the lab has no use of."""
    monkeypatch.setattr(programs, "CHANGELOG", tmp_path / "changelog.gz")
    monkeypatch.setattr(programs, "installed", lambda: {"runc": version})
    if changelog:
        programs.CHANGELOG.write_bytes(gzip.compress(changelog.encode()))
    rows = programs.advisories_table().rows
    assert sum(fixed == "no" for _, fixed, _, _ in rows) == open_ones
    said = programs.advisories(Lab())
    assert said.startswith(f"runc {version}: fixed ")
    assert said.partition("not fixed")[2].count("CVE-") == open_ones


def test_no_two_replicas_share_a_folder_that_they_can_write() -> None:
    """As the advisories' table says: else one could redirect what runC writes while it starts another."""
    lab = Lab()
    mounts = [mount for item in lab.farm for mount in container.replica_spec(lab, item).mounts]
    bound = [mount.source for mount in mounts if mount.kind == "bind" and "rw" in mount.options]
    assert len(set(bound)) == len(bound) == len(lab.farm)
    assert not container.replica_spec(lab, lab.farm[0]).terminal
