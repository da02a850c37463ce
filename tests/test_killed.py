"""labkit killed or interrupted at a sample of its steps; ``tests/benchmarks/killed.py`` has all of them."""

from __future__ import annotations

import pytest

from labkit.core import run
from tests import inventory
from tests.own_machine import PYTHON, on_it, python_on_it

#: What a machine of its own takes at most, in seconds.
LONG = 600.0


@pytest.mark.root
@pytest.mark.parametrize(("sig", "count"), [("KILL", 4), ("TERM", 1), ("INT", 2)])
def test_a_labkit_that_was_killed_is_gone_on_with_and_leaves_nothing(sig: str, count: int) -> None:
    """While it makes a farm, changes one, or takes one down: apply goes on from there, and down leaves the
    machine as it was."""
    words = ["--here", "--sample", str(count), "--seed", "5", "--signal", sig]
    done = run.run(
        python_on_it("tests.benchmarks.killed", *words), ok=range(-64, 256), timeout=LONG
    )
    assert done.status == 0, done.stdout + done.stderr
    assert "; 0 differ" in done.stdout


@pytest.mark.root
@pytest.mark.parametrize("kind", ["interrupted", "restarted"])
def test_a_notebook_s_kernel_that_was_cut_off_leaves_what_apply_converges(kind: str) -> None:
    """The interrupted cell ends with KeyboardInterrupt and nothing of it goes on; the next cell's apply (of the new
    kernel, after a restart) converges, who served before serves on, and down leaves nothing."""
    done = run.run(python_on_it("tests.kernels", kind), ok=range(-64, 256), timeout=LONG)
    assert done.status == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing is left\n")


def test_a_difference_names_what_is_new_gone_and_changed() -> None:
    """Each thing in a line of its own."""
    before = {"mount": {"/a": "tmpfs", "/b": "tmpfs"}, "setting": {"x": "0"}}
    after = {"mount": {"/b": "ext4", "/c": ""}, "setting": {"x": "0"}}
    assert inventory.difference(before, after) == (
        "+ mount /c",
        "- mount /a tmpfs",
        "~ mount /b: tmpfs -> ext4",
    )
    assert inventory.difference(before, before) == ()


#: What is made on a machine that is looked at before and after, and the line that says so.
MADE = {
    "+ link lab0 ": "ip link add lab0 type bridge",
    "+ route {": "ip route add unreachable 10.99.0.0/24",
    "+ rule ": "ip rule add from 10.99.0.1 table 99",
    "+ namespace lab0": "ip netns add lab0",
    "+ mount /run/own/m": "mkdir /run/own/m; mount -t tmpfs tmpfs /run/own/m",
    "~ setting /proc/sys/net/ipv4/ip_forward": "echo 1 > /proc/sys/net/ipv4/ip_forward",
    "+ file /run/own/f": "touch /run/own/f",
    "~ file of /etc /etc/hostname": "echo x >> /etc/hostname",
    "+ temporary file /tmp/f": "touch /tmp/f",
    "+ process ": "setsid --fork sleep 30",
    "+ listener tcp ": "setsid --fork python3 -m http.server 8099 >&- 2>&-",
    "+ runC container /run/runc/x": "mkdir -p /run/runc/x",
}
LOOK = """
import subprocess, sys, time
from tests import inventory
from tests.own_machine import PLACE
def take():  # other tests' labs have control groups, too
    return inventory.take(PLACE, groups="labkit-inventory")
before = take()
assert inventory.difference(before, take()) == ()
subprocess.run(["sh", "-c", sys.argv[1]], check=True)
found = ()
while len(found) < 1 or ("http.server" in sys.argv[1] and "listener" not in str(found)):
    found = inventory.difference(before, take())
print(*found, sep="\\n")
"""


@pytest.mark.root
def test_the_inventory_sees_what_a_lab_could_leave() -> None:
    """Each kind of thing, made behind its back on a machine of its own."""
    commands = "\n".join(MADE.values())
    done = run.run(on_it([PYTHON, "-c", LOOK, commands]), timeout=LONG)
    lines = done.stdout.splitlines()
    assert [what for what in MADE if not any(line.startswith(what.strip()) for line in lines)] == []
