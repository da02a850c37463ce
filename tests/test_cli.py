"""The command: what it says, how it exits, and that it is a thin front."""

from __future__ import annotations

import io
import json
import operator
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from labkit import Check, Lab, Result, Table
from labkit import __version__ as labkit_version
from labkit.cli import app
from labkit.cli.command import Choice, joined
from labkit.cli.terminal import show
from labkit.core import run
from labkit.core.run import Done
from labkit.errors import ConfigError
from tests import stage_notebooks
from tests.conftest import free_port
from tests.waiting import until

COMMANDS = (
    "rebuild", "run", "notebook", "publish", "answer", "plan", "apply", "watch", "down", "status", "check", "remarks", "review",
    "doctor", "gc", "refresh", "test",
)  # fmt: skip
ROOT = Path(__file__).parents[1]


def labkit(*arguments: str | Path, cwd: Path = ROOT, code: str = "") -> Done:
    """Runs the command as a user's shell would, whatever its exit status."""
    start = ("-c", code) if code else ("-m", "labkit")
    env = {"PYTHONPATH": str(ROOT)}
    return run.run(
        [sys.executable, *start, *arguments], cwd=cwd, env=env, ok=range(256), timeout=120
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of the test's own with one stage, and a lab.toml that keeps it there."""
    (tmp_path / "lab").touch()
    stage_notebooks.write(tmp_path / "notebooks", "01-wiki")
    (tmp_path / "lab.toml").write_text(
        f'name = "mine"\nstate = "{tmp_path}/state"\nrun = "{tmp_path}/run"\n'
    )
    return tmp_path


def test_help_explains_every_command_and_how_it_is_told_which_lab() -> None:
    """The help lists each command with its purpose, uncut; a command's help has the options that name the lab. An
    unknown command is a usage error."""
    said = labkit("--help").stdout
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\S.*[^.]\.$", said, re.MULTILINE), command
        own = CliRunner().invoke(app, [command, "--help"])
        assert own.exit_code == 0
        for option in (
            "--config",
            "--lab-name",
            "--netns",
            "--set",
            "--json",
            "--debug",
            "--offline",
        ):
            assert (option in own.stdout) is (command != "test"), (command, option)
    assert labkit("rebild").status == 2


@pytest.mark.parametrize("start", [["-m", "labkit"], ["lab"]])
def test_the_version_is_told(start: list[str]) -> None:
    """By the command, the module, and ./lab, which installs nothing for it."""
    argv = [ROOT / "lab"] if start == ["lab"] else [sys.executable, *start]
    said = run.run([*argv, "--version"], cwd=ROOT)
    assert said.stdout == f"labkit {labkit_version}\n"


def test_a_wheel_brings_its_notebooks(tmp_path: Path) -> None:
    """Installed elsewhere and called in an empty folder; to open them, they have to be copied first."""
    build = ("-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path)
    run.run([sys.executable, *build], cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()

    def installed(*words: str) -> Done:
        argv = [sys.executable, *words]
        return run.run(argv, cwd=empty, env={"PYTHONPATH": str(site)}, ok=range(256))

    code = "from labkit.report.stages import assignment as a; from labkit.report.batch import rebuild as r; print(*r.find(a.STAGES, r.notebooks_folder(), {}).values())"
    names = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {*installed("-c", code).stdout.split()} == {
        f"{site}/labkit/notebooks/{n}" for n in names
    }
    assert installed("-m", "labkit", "rebuild", "--help").status == 0
    said = installed("-m", "labkit", "notebook", "--json")
    told = json.loads(said.stdout)["error"]
    assert told["code"] == "config.no-notebook"
    run.run(shlex.split(told["remedy"].partition(": ")[2]), cwd=empty)
    assert {path.name for path in (empty / "notebooks").iterdir()} == {*names, "assignment.toml"}


@pytest.mark.root
def test_collecting_is_told_and_tried_first(project: Path) -> None:
    """A dry run names what would go; the command itself removes it. Offline, the mirror is not asked for new lists, and
    the error says why."""
    left = project / "state/.cache/rootfs/.minbase.part"
    left.mkdir(parents=True)
    dry = labkit("gc", "--dry-run", cwd=project)
    assert dry.status == 0
    assert "would be removed" in dry.stdout
    assert left.exists()
    assert labkit("gc", cwd=project).status == 0
    assert not left.exists()
    said = labkit("refresh", "--offline", cwd=project)
    assert said.status == 1
    assert "offline" in said.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["run", "04-network"], ["run", "04-network"]),
        (["rebuild", "-p", "replicas", "3"], ["rebuild", "--set", "replicas=3"]),
        (["rebuild", "-p", "a", "-1", "-p", "b", "x=y"], ["rebuild", "--set", "a=-1", "--set", "b=x=y"]),
        (["test", "-p", "no:cacheprovider"], ["test", "-p", "no:cacheprovider"]),
        ([], []),
    ],
)  # fmt: skip
def test_parameters_as_papermill_has_them(given: list[str], expected: list[str]) -> None:
    """``-p NAME VALUE`` is ``--set NAME=VALUE``; what is pytest's is left to it."""
    assert joined(given) == expected


def test_parameter_without_a_value_is_refused() -> None:
    """A ``-p`` at the end of the line is an error, with the way to write it."""
    with pytest.raises(ConfigError, match="-p replicas 3"):
        joined(["rebuild", "-p", "replicas"])


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("wiki.page=Our lab", "wiki.page", "Our lab"),
        ("wiki_page=Our lab", "wiki.page", "Our lab"),
        ('rootfs.packages=["curl"]', "rootfs.packages", ("curl",)),
        ("proxy.port=81", "proxy.port", 81),
        ("name=ours", "name", "ours"),
        ("offline=true", "offline", True),
    ],
)
def test_a_setting_is_a_parameter_or_a_key(
    setting: str, key: str, value: object, tmp_path: Path
) -> None:
    """Whatever lab.toml can say, ``--set`` can say, by the key's own name or the parameter's."""
    file = tmp_path / "lab.toml"
    file.write_text("[wiki]\npage = 'Theirs'\nport = 8061\n")
    lab = Choice(config=file, settings=[setting]).lab()
    assert operator.attrgetter(key)(lab) == value
    assert lab.wiki.port == 8061


def test_an_error_is_printed_without_a_traceback(tmp_path: Path) -> None:
    """Value, reason and remedy on standard error, nothing on standard output, exit status 1, and nothing that steers a
    terminal; ``--debug`` shows where it comes from."""
    done = labkit("status", "--set", "lab_name=\x1b]0;owned\x07", cwd=tmp_path)
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith("labkit: ")
    for absent in ("Traceback", "\x1b", "\x07"):
        assert absent not in done.stderr
    done = labkit("status", "--debug", "--set", "replcas=3", cwd=tmp_path)
    assert done.status == 1
    assert "Traceback" in done.stderr
    assert "did you mean 'replicas'" in done.stderr
    done = labkit("rebuild", "--from", "04-netwrk", cwd=tmp_path)
    assert done.status == 1
    assert "did you mean '04-network'" in done.stderr


def test_run_tells_the_truth(project: Path) -> None:
    """A stage that passes exits with 0 and names the site; one that fails exits with 1 and says why."""
    done = labkit("run", "01-wiki", "--set", "shown=hello", "--set", "network.subnet=10.9.0.0/24", cwd=project)  # fmt: skip
    assert done.status == 0, done.stderr
    assert "1 stage: 1 passed." in done.stdout
    index = project / "outputs" / "mine" / "review" / "index.html"
    assert f"Review site: {index}" in done.stdout
    assert "✔ passed" in re.sub(r"<[^>]+>", "", index.read_text())
    assert "10.9.0.0/24" in index.read_text()
    assert "01-wiki: passed" in (index.parents[1] / "labkit.log").read_text()
    stage_notebooks.write(project / "notebooks", "01-wiki", "1 / 0")
    failed = labkit("run", "01-wiki", "--json", cwd=project)
    assert failed.status == 1
    record = json.loads(failed.stdout)
    assert record["value"]["stages"][0]["state"] == "failed"
    assert "ZeroDivisionError" in record["checks"][0]["seen"]


def test_rebuild_needs_every_notebook(project: Path) -> None:
    """A rebuild of a project without all its notebooks is refused before anything runs."""
    done = labkit("rebuild", cwd=project)
    assert done.status == 1
    assert "02-rootfs.ipynb: there is no notebook here" in done.stderr
    assert not (project / "run").exists()


def test_options_override_the_file(project: Path) -> None:
    """An option goes before lab.toml, and lab.toml before the defaults."""
    named = labkit("review", "--json", cwd=project)
    other = labkit("review", "--json", "--lab-name", "other", cwd=project)
    assert [json.loads(done.stdout)["subject"] for done in (named, other)] == ["mine", "other"]
    assert (project / "outputs" / "other" / "review" / "index.html").exists()


def test_outputs_that_cannot_be_written_are_told(project: Path) -> None:
    """Where the system refuses a file, the file and the system's word for it are told."""
    (project / "outputs").touch()
    done = labkit("review", cwd=project)
    assert done.status == 1
    assert re.match(r"labkit: .*outputs.*: (Not a directory|File exists)", done.stderr)


def test_result_in_words() -> None:
    """A result is told with its tables in human units, and a failing check with how to see it again."""
    failing = Check(name="a.b", expected="2", seen="1 \x1b[0m", holds=False, again="ping b")
    table = Table.of("t", "Sizes", [{"what": "x", "size": 1_500_000}], units={"size": "bytes"})
    result = Result[None](
        action="a", subject="s", summary="Said.", changed=False, value=None, checks=(failing,),
        tables=(table,), run="r", started=datetime.now(UTC), seconds=1,
    )  # fmt: skip
    console = Console(file=io.StringIO(), width=80)
    show(result, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("Sizes", "1.5 MB", "✘ fails", "see a.b: ping b", "Said."):
        assert part in said
    assert "\x1b" not in said


def test_test_hands_its_arguments_to_pytest() -> None:
    """``labkit test`` becomes pytest with the rest of the line."""
    done = labkit("test", "--version")
    assert done.status == 0
    assert "pytest" in done.stdout + done.stderr


def listens(port: int) -> bool:
    """Whether something accepts connections on a port of the loopback address."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_notebook_asks_for_a_token(project: Path) -> None:
    """JupyterLab listens on loopback, prints its address with the token, and refuses who has none."""
    port = free_port()
    argv = [sys.executable, "-m", "labkit", "notebook", "--port", str(port), "-c", str(project / "lab.toml")]  # fmt: skip
    home = {"HOME": str(project), "PYTHONPATH": str(ROOT)}
    log = project / "jupyter.log"
    with log.open("wb") as output:
        server = run.start(argv, env=home, output=output)
    try:
        address = re.compile(rf"http://127\.0\.0\.1:{port}/lab\?token=(\w+)")
        until(lambda: address.search(log.read_text()) and listens(port), patience=60)
        found = address.search(log.read_text())
        assert found, log.read_text()
        api = f"http://127.0.0.1:{port}/api/contents"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(api)
        with urllib.request.urlopen(f"{api}?token={found[1]}") as reply:  # noqa: S310 - loopback
            assert reply.status == 200
    finally:
        os.kill(server.pid, signal.SIGTERM)
        server.wait(30)


def test_notebooks_see_the_lab_of_the_command(project: Path) -> None:
    """The lab that JupyterLab's notebooks read is the one that the options describe."""
    lab = Lab.load(project / "lab.toml", replicas=3)
    script = "from labkit.report.batch.notebook import write_lab_file; from labkit import Lab; import sys\n"
    script += "from pathlib import Path\n"
    script += "print(write_lab_file(Lab.load(Path(sys.argv[1]), replicas=3)))"
    path = labkit(project / "lab.toml", code=script).stdout.strip()
    assert Lab.load(Path(path)) == lab
    shutil.rmtree(lab.output_dir)


def test_a_reader_that_has_seen_enough_is_no_error(project: Path) -> None:
    """As `head`, which ends before all was written: nothing is said of that."""
    words = shlex.join([sys.executable, "-m", "labkit", "plan", "--json"])
    done = run.run(["sh", "-c", f"{words} | true"], cwd=project, env={"PYTHONPATH": str(ROOT)})
    assert (done.stdout, done.stderr) == ("", "")
