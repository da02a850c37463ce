"""Progress: what programs say, read; and what is being done, told in one line."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from labkit.core.progress import Doing, Teller, told
from labkit.farm.rootfs.bootstrap import heard
from labkit.report.batch.progress import Progress

DEBOOTSTRAP = """\
I: Retrieving InRelease
I: Retrieving Packages
I: Resolving dependencies of required packages...
I: Checking component main on http://mirror.test/debian...
I: Retrieving adduser 3.134
I: Validating adduser 3.134
I: Retrieving bash 5.2.15-2+b13
I: Chosen extractor for .deb packages: dpkg-deb
I: Extracting adduser...
I: Extracting bash...
I: Installing core packages...
I: Unpacking required packages...
I: Unpacking bash...
I: Configuring required packages...
I: Configuring bash...
I: Unpacking the base system...
I: Unpacking adduser...
I: Base system installed successfully.
"""
MMDEBSTRAP = """\
I: finding correct signed-by value...
I: downloading packages with apt...
Building dependency tree...
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Get:1 http://mirror.test/debian bookworm InRelease [151 kB]
Get:1 http://mirror.test/debian bookworm/main amd64 grep amd64 3.8-5 [421 kB]
Get:2 http://mirror.test/debian bookworm/main amd64 mawk amd64 1.3 [112 kB]
I: extracting archives...
I: installing essential packages...
Unpacking grep (3.8-5) ...
Unpacking libc6:amd64 (2.36-9) ...
Setting up grep (3.8-5) ...
"""


def _phases(text: str) -> list[str]:
    """What is being done after each line, without repetitions."""
    state = Doing(what="x", phase="begin")
    seen = []
    for line in text.splitlines():
        state = heard(line, state)
        seen += [state.text] if state.text not in seen[-1:] else []
    return seen


def test_a_tool_is_followed() -> None:
    """debootstrap: as many as were downloaded are to be unpacked and configured; apt says how many there will be."""
    assert _phases(DEBOOTSTRAP) == [
        "x: resolve", "x: download", "x: download 1", "x: download 2", "x: unpack 1 of 2", "x: unpack 2 of 2",
        "x: unpack 3 of 3", "x: configure 0 of 3", "x: configure 1 of 3", "x: unpack 0 of 3", "x: unpack 1 of 3",
    ]  # fmt: skip
    assert _phases(MMDEBSTRAP) == [
        "x: begin", "x: download", "x: resolve", "x: resolve 0 of 2", "x: download 1 of 2", "x: download 2 of 2",
        "x: unpack 0 of 2", "x: configure 0 of 2", "x: unpack 1 of 2", "x: unpack 2 of 2", "x: configure 1 of 2",
    ]  # fmt: skip


def test_a_line_is_read() -> None:
    """Lines of labkit's own programs, and those that say nothing."""
    for line, text in (
        ("extracting 92 packages", "x: begin 0 of 92"),
        ("downloading 92 packages", "x: begin 0 of 92"),
        ("Get:1 http://mirror.test/debian/pool/g/grep_3.8_amd64.deb [421 kB]", "x: download 1"),
        ("leaving out: documentation", "x: leave out"),
        ("(Reading database ... 5%", "x: begin"),
        ("", "x: begin"),
    ):
        assert heard(line, Doing(what="x", phase="begin")).text == text


def test_works_side_by_side_are_one_line() -> None:
    """A new phase is told at once, what goes on in it now and then; at the end there is nothing."""
    shown: list[str] = []
    teller = Teller(shown.append)
    teller.tell(Doing(what="minbase", phase="unpack", done=1, total=9))
    teller.tell(Doing(what="docker", phase="copy"))
    for number in range(2, 9):
        teller.tell(Doing(what="minbase", phase="unpack", done=number, total=9))
    teller.end("minbase")
    teller.end("docker")
    assert shown[:2] == ["minbase: unpack 1 of 9", "minbase: unpack 1 of 9 · docker: copy"]
    assert shown[-2:] == ["docker: copy", ""]
    assert len(shown) < 9


def test_the_batch_shows_what_a_running_stage_is_doing(tmp_path: Path) -> None:
    """Beside the cell that runs; once the stage has ended it shows how it came out."""
    file = tmp_path / "02-rootfs.doing"
    progress = Progress()
    progress.expect(["02-rootfs"])
    progress.begin("02-rootfs", "never run", file)
    progress.cell("02-rootfs", 7, 20)
    assert progress.note("02-rootfs") == "cell 7 of 20"
    file.write_text("minbase: unpack 43 of 92")
    assert told(file) == "minbase: unpack 43 of 92"
    assert progress.note("02-rootfs") == "cell 7 of 20: minbase: unpack 43 of 92"
    progress.end("02-rootfs", "passed", 3.0, "9 of 9 checks hold")
    assert progress.note("02-rootfs") == "9 of 9 checks hold"


CELL = """
import threading
from labkit.core.progress import Doing; from labkit.core.progress import doing
with doing("minbase") as tell:
    threads = [threading.Thread(target=tell, args=(Doing(what="minbase", phase="unpack", done=n),))
               for n in range(5)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
"the result"
"""


def test_in_a_notebook_nothing_stays_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the cell runs it has one line below it; in the end only the result."""
    monkeypatch.delenv("LABKIT_DOING", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output.data["text/plain"] == "'the result'"
