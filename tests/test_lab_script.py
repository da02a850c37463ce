"""The `lab` script on a machine where nothing is ready yet: what it installs, keeps, refuses, leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.core import run
from tests.scratch_machine import (
    CLONE,
    POLICY,
    SERVICE,
    SETTINGS,
    STARTED,
    Machine,
    lock,
    scratch_machine,
    wheel,
)
from tests.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine on which ./lab was never called."""
    with scratch_machine(tmp_path) as made:
        yield made


def test_the_first_call_makes_ready_and_later_ones_what_has_changed(machine: Machine) -> None:
    """Package and .venv come once, and the arguments are handed on as they are. A .venv without its stamp is made anew,
    whatever is in it; another requirements.lock brings other libraries."""
    for words in ([], ["--help"], ["help"]):  # installs nothing
        done = machine.lab(*words)
        assert "sudo ./lab rebuild" in done.stdout
        assert done.stderr == ""
    assert not machine.path(f"{CLONE}/.venv").exists()
    first = machine.lab("run", "a b", "*")
    assert first.stdout == "ready 0 ['run', 'a b', '*']\n"
    assert "installing 1 Debian packages" in first.stderr
    assert "the Python libraries of requirements.lock: done in" in first.stderr
    second = machine.lab("x")
    assert (second.stdout, second.stderr) == ("ready 0 ['x']\n", "")
    machine.path(f"{CLONE}/.venv/lab.stamp").write_text("")
    next(machine.path(f"{CLONE}/.venv").rglob("tiny.py")).unlink()
    done = machine.lab("x")
    assert done.stdout == "ready 0 ['x']\n"
    assert "making .venv" in done.stderr
    lock(machine, wheel(machine, "newer"))
    assert machine.lab("x").stderr.count("requirements.lock: done") == 1


def test_installing_starts_enables_and_changes_no_service(machine: Machine) -> None:
    """A package that would start a service, enable it for the machine and for each user, and change the
    machine's apache2 does nothing of that; a service of the machine's own that gets another number stays."""
    machine.write("/etc/apache2/mods-enabled/own.load", "own")
    machine.write("/etc/init.d/own", SERVICE, 0o755)
    machine.path("/etc/rc2.d").mkdir(exist_ok=True)
    machine.path("/etc/rc2.d/S01own").symlink_to("../init.d/own")
    before = {path for path in links(machine) if not path.endswith("own")}
    machine.lab("--packages")
    assert not machine.path(STARTED).exists()
    assert not machine.path(POLICY).exists()
    assert links(machine) == {*before, "/etc/rc2.d/S02own"}
    modules = machine.path("/etc/apache2/mods-enabled")
    assert "own.load" in [path.name for path in modules.iterdir()]
    assert not (modules / "test.load").is_symlink()
    machine.run("dpkg", "--purge", "labkit-test")
    said = machine.run("apt-get", "-y", "install", "labkit-test")
    assert machine.path(STARTED).exists(), f"apt alone starts it: {said.stdout}{said.stderr}"


def links(machine: Machine) -> set[str]:
    """What is enabled: the links of systemd's folders, and those of an init without it."""
    folders = ("/etc/systemd", *(f"/etc/rc{level}.d" for level in "0123456S"))
    there = (path for folder in folders for path in machine.path(folder).rglob("*"))
    own = str(machine.path("/"))
    return {str(path).removeprefix(own) for path in there if path.is_symlink()}


def test_a_policy_of_the_machines_own_stays(machine: Machine) -> None:
    """It is the administrator's word on what may be started: kept, byte for byte."""
    machine.write(POLICY, "#!/bin/sh\n# mine\nexit 101\n", 0o755)
    machine.lab("--packages")
    assert machine.path(POLICY).read_text() == "#!/bin/sh\n# mine\nexit 101\n"


def test_a_failure_shows_the_logs_end_and_its_place(machine: Machine) -> None:
    """Nobody has to guess: what apt said, where the whole of it is, what to do."""
    machine.write(f"{CLONE}/labkit/debian-packages.txt", "no-such-package\n")
    done = machine.lab("x", ok=(1,))
    assert "Unable to locate package no-such-package" in done.stderr
    place = done.stderr.partition("the whole log: ")[2].split()[0]
    assert "Unable to locate" in machine.path(place).read_text()
    assert "remedy: " in done.stderr
    assert not machine.path(POLICY).exists()


def test_packages_come_from_the_list(machine: Machine) -> None:
    """Of two that will do, neither is installed when one is there, else the first. apt-get update runs when the package
    cannot be had without it."""
    for text in ("# nothing\n", "dpkg # there\nno-such | dpkg # either\n"):
        machine.write(f"{CLONE}/labkit/debian-packages.txt", text)
        assert machine.lab("--packages").stderr == ""
    machine.write(f"{CLONE}/labkit/debian-packages.txt", "labkit-test | no-such\n")
    done = machine.lab("--packages")
    assert "installing 1 Debian" in done.stderr
    assert "fetching apt's package lists" in done.stderr
    machine.run("dpkg", "--purge", "labkit-test")
    assert "fetching" not in machine.lab("--packages").stderr


def test_who_is_not_root_is_told_what_to_run(machine: Machine) -> None:
    """Without sudo the command for root is named; nothing was changed."""
    for sudo in ("/usr/bin/sudo", "/usr/local/bin/sudo"):
        machine.path(sudo).unlink(missing_ok=True)
    drop = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = machine.run(*drop, f"{CLONE}/lab", "x", ok=(1,))
    assert f"run as root: {CLONE}/lab --packages" in done.stderr
    assert not machine.path(f"{CLONE}/.venv").exists()


def test_called_by_sudo_the_venv_is_the_callers(machine: Machine) -> None:
    """The folder's owner can use and change .venv afterwards; labkit itself runs as root."""
    machine.run("useradd", "--create-home", "--uid", "4711", "caller")
    machine.run("chown", "-R", "4711:4711", CLONE)
    done = machine.lab("x", SUDO_UID="4711", SUDO_GID="4711", SUDO_USER="caller")
    assert done.stdout == "ready 0 ['x']\n"
    venv = machine.path(f"{CLONE}/.venv")
    assert {path.lstat().st_uid for path in (venv, *venv.rglob("*"))} == {4711}


def test_a_persons_settings_stay_outside(machine: Machine) -> None:
    """Neither Python's nor pip's say what is imported, or where the libraries go; nor does the folder in
    which ./lab is called."""
    trap = "raise SystemExit('of the caller')"
    for name in ("secrets", "json", "subprocess", "venv", "pip", "tiny", "sitecustomize"):
        machine.write(f"/srv/there/{name}.py", trap)
    machine.write(
        "/srv/home/.config/pip/pip.conf", "[install]\ntarget = /srv/elsewhere\nuser = yes\n"
    )
    machine.write("/srv/home/start.py", trap)
    theirs = {
        "HOME": "/srv/home", "PYTHONPATH": "/srv/there", "PYTHONSTARTUP": "/srv/home/start.py",
        "PYTHONWARNINGS": "error", "PYTHONHOME": "/srv/there", "PYTHONUSERBASE": "/srv/there",
        "PIP_TARGET": "/srv/elsewhere", "PIP_USER": "1", "PIP_PREFIX": "/srv/elsewhere",
        "PIP_REQUIRE_VIRTUALENV": "1", "PIP_NO_BINARY": ":all:", "PIP_DRY_RUN": "1",
    }  # fmt: skip
    call = ("env", "--chdir=/srv/there", f"{CLONE}/lab", "x")
    assert machine.run(*call, **theirs).stdout == "ready 0 ['x']\n"
    assert machine.run(*call, **theirs).stderr == ""
    assert not machine.path("/srv/elsewhere").exists()


def test_a_library_with_another_hash_is_refused(machine: Machine) -> None:
    """What is not what was pinned is not installed; the next call, with the right one, works."""
    digest = wheel(machine, "ready")
    wheel(machine, "forged")
    done = machine.lab("x", ok=(1,))
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
    assert not list(machine.path(f"{CLONE}/.venv").rglob("tiny.py"))
    assert wheel(machine, "ready") == digest
    assert "making .venv" in machine.lab("x").stderr


def test_somebodys_own_venv_is_left_alone(machine: Machine) -> None:
    """A .venv that this script did not make is refused, not replaced."""
    machine.write(f"{CLONE}/.venv/mine", "precious")
    done = machine.lab("x", ok=(1,))
    assert "was not made by this script" in done.stderr
    assert machine.path(f"{CLONE}/.venv/mine").read_text() == "precious"


def slow(machine: Machine) -> None:
    """Makes apt wait, while it installs, for as long as the test likes."""
    hook = (
        'DPkg::Pre-Invoke {"touch /run/reached; while [ ! -e /run/go ]; do sleep 0.05; done";};\n'
    )
    machine.write("/etc/apt/apt.conf.d/99slow", hook)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_installation_leaves_no_policy(
    machine: Machine, sig: signal.Signals
) -> None:
    """Ctrl-C while apt works: what was there only for a while is gone, and the status says why."""
    slow(machine)
    process = run.start(machine.inside(f"{CLONE}/lab", "--packages"), env=SETTINGS)
    try:
        until(machine.path("/run/reached").exists)
        assert machine.path(POLICY).exists()
        os.killpg(process.pid, sig)
        machine.write("/run/go", "")
        assert process.wait(30) in (128 + sig, -sig)
    finally:
        process.kill()
        process.wait()
    until(lambda: not working(machine, "lab"))
    assert not machine.path(POLICY).exists()
    machine.lab("--packages")
    assert not machine.path(STARTED).exists()


def working(machine: Machine, program: str) -> bool:
    """Whether a program runs on the machine; a zombie has ended."""
    return machine.run("pgrep", "--runstates", "RSD", "-x", program, ok=(0, 1)).status == 0


def test_a_killed_installation_forbids_nothing_for_ever(machine: Machine) -> None:
    """What a killed script leaves has no effect any more, and the next call removes it."""
    slow(machine)
    process = run.start(
        machine.inside("setpriv", "--pdeathsig=KILL", f"{CLONE}/lab", "--packages"), env=SETTINGS
    )
    try:
        until(machine.path("/run/reached").exists)
        assert machine.run(POLICY, "x", "start", ok=(101,)).status == 101
        lab = machine.run("pgrep", "-o", "-x", "lab").stdout.strip()
        machine.run("kill", "-KILL", lab)
        until(lambda: machine.run(POLICY, "x", "start", ok=(0, 101)).status == 0)
        machine.write("/run/go", "")
    finally:
        process.kill()
        process.wait()
    until(lambda: not working(machine, "apt-get"))
    machine.lab("--packages")
    assert not machine.path(POLICY).exists()


#: os-release files (os-release(5)) as systems have them, and whether labkit runs there.
SYSTEMS = {
    "Debian 12": ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n', True),
    "Debian 13.2": ('PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_ID="13.2"\nID=debian\n', True),
    "Debian testing": ('PRETTY_NAME="Debian GNU/Linux forky/sid"\nID=debian\n', True),
    "Debian 11": ('PRETTY_NAME="Debian GNU/Linux 11 (bullseye)"\nVERSION_ID="11"\nID=debian\n', False),
    "Ubuntu": ('PRETTY_NAME="Ubuntu 24.04.1 LTS"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n', False),
    "Fedora": ("PRETTY_NAME='Fedora Linux 41'\nVERSION_ID=41\nID=fedora\n", False),
    "a file without names": ("", False),
}  # fmt: skip


def test_another_system_is_told_in_one_sentence_before_anything_is_changed(
    machine: Machine,
) -> None:
    """os-release decides, at once: Debian 12 and later go, and none that is derived from it."""
    for system, (text, goes) in SYSTEMS.items():
        machine.write("/etc/os-release", text)
        if system == "Fedora":  # and those after it have no dpkg
            machine.path("/usr/bin/dpkg-query").unlink()
        if goes:
            machine.write(f"{CLONE}/labkit/debian-packages.txt", "dpkg\n")
            assert machine.lab("--packages").stderr == "", system
            continue
        machine.write(f"{CLONE}/labkit/debian-packages.txt", "labkit-test\n")
        name = text.partition("=")[2].partition("\n")[0].strip("\"'") or "unknown"
        for words in (["--packages"], ["rebuild"]):
            done = machine.lab(*words, ok=(1,))
            assert done.stderr.startswith(
                f"lab: this system is {name}, and labkit runs on Debian 12"
            )
            assert done.stderr.count("\n") == 1
            assert done.seconds < 2
    assert not machine.path(f"{CLONE}/.venv").exists()
    assert not machine.path("/etc/init.d/labkit-test").exists()
