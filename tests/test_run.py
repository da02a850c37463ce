"""The one door: real programs, their failures, their time limits, their environment."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from labkit.core import run
from labkit.errors import CommandError, CommandTimeoutError, MachineError
from labkit.kernel import proc
from tests import proc as every
from tests.waiting import until


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    return not proc.lives(pid)


def wait_until_gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    deadline = time.monotonic() + 5
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return gone(pid)


def test_what_a_program_wrote_comes_back() -> None:
    """Both outputs, the status, and the command as one would type it."""
    done = run.run(["sh", "-c", "echo out; echo 'e r r' >&2"])
    assert (done.stdout, done.stderr, done.status) == ("out\n", "e r r\n", 0)
    assert done.command == "sh -c 'echo out; echo '\"'\"'e r r'\"'\"' >&2'"


def test_a_command_does_not_say_where_the_interpreter_is() -> None:
    """What ran is known exactly; what a person reads has ``python`` and no path of this machine."""
    done = run.run([sys.executable, "-c", "print(1)"])
    assert done.argv[0] == sys.executable
    assert done.command == "python -c 'print(1)'"
    with pytest.raises(CommandError) as failed:
        run.run([sys.executable, "-c", "raise SystemExit(3)"])
    assert failed.value.argv[0] == sys.executable
    assert str(failed.value).startswith("python: exit status 3")
    assert sys.executable not in str(failed.value)


def test_words_and_outputs_are_bytes_for_bytes() -> None:
    """No shell reads an argument; output that is not UTF-8 is no error."""
    word = "$(id); `id` * ~ \n '\""
    assert run.run(["printf", "%s", word]).stdout == word
    assert run.run(["printf", r"a\377b"]).stdout == "a\ufffdb"


def test_a_status_that_is_not_expected_is_an_error() -> None:
    """It has the arguments, the status (negative for a signal), and the end of standard error; good statuses are named
    at the call, and 0 is one of them only when it is named."""
    with pytest.raises(CommandError, match="exit status 3: why") as caught:
        run.run(["sh", "-c", "echo why >&2; exit 3"], remedy="do this")
    assert (caught.value.status, caught.value.argv[0], caught.value.remedy) == (3, "sh", "do this")
    assert run.run(["false"], ok=(1,)).status == 1
    with pytest.raises(CommandError, match="exit status 0"):
        run.run(["true"], ok=(1,))
    with pytest.raises(CommandError, match="signal 9") as caught:
        run.run(["sh", "-c", "kill -9 $$"])
    assert caught.value.status == -signal.SIGKILL


def test_a_missing_program_is_named_with_its_remedy() -> None:
    """It is not an OSError somewhere below, and nothing was started."""
    with pytest.raises(MachineError, match="not on the machine") as caught:
        run.run(["no-such-program", "x"])
    assert "./lab" in caught.value.remedy
    with pytest.raises(MachineError, match="not on the machine"):
        run.start(["no-such-program"])


UNSTARTABLE = [
    pytest.param("#!/no/such/interpreter\n", 0o755, "No such file", id="ENOENT of the interpreter"),
    pytest.param("\x7fELF", 0o755, "Exec format error", id="ENOEXEC"),
    pytest.param("#!/bin/sh\n", 0o644, "not on the machine", id="not executable"),
]


@pytest.mark.parametrize(("text", "mode", "said"), UNSTARTABLE)
def test_a_file_that_is_no_program_is_an_error_of_the_machine(
    tmp_path: Path, text: str, mode: int, said: str
) -> None:
    """Whatever the system says of it is in the error."""
    program = tmp_path / "program"
    program.write_text(text)
    program.chmod(mode)
    with pytest.raises(MachineError, match=said):
        run.run([program])


def test_a_missing_working_folder_is_named(tmp_path: Path) -> None:
    """The folder, and not the program, is what is missing."""
    with pytest.raises(MachineError, match=r"cannot be started in .*nowhere"):
        run.run(["true"], cwd=tmp_path / "nowhere")


@pytest.mark.parametrize("follow", [False, True])
def test_a_child_that_keeps_the_output_is_out_of_time_too(tmp_path: Path, follow: bool) -> None:
    """A program that ended, and left a child that holds its outputs: the child's own end is not waited for."""
    file, over = tmp_path / "pid", tmp_path / "over"
    lines: list[str] = []
    with pytest.raises(CommandTimeoutError):
        run.run(
            ["sh", "-c", f"(sleep 4; touch {over}) & echo $! > {file}"],
            timeout=0.5,
            on_line=lines.append if follow else None,
        )
    assert wait_until_gone(int(file.read_text()))
    assert not over.exists()


@pytest.mark.parametrize("follow", [False, True])
def test_out_of_time_ends_the_whole_group(tmp_path: Path, follow: bool) -> None:
    """Neither the program nor what it started is left."""
    file = tmp_path / "pid"
    argv = ["sh", "-c", f"sleep 60 & echo $! $$ > {file}; wait"]
    lines: list[str] = []
    with pytest.raises(CommandTimeoutError, match=r"did not end within 0\.5 s"):
        run.run(argv, timeout=0.5, on_line=lines.append if follow else None)
    child, parent = map(int, file.read_text().split())
    assert wait_until_gone(child)
    assert wait_until_gone(parent)


def test_an_interrupt_ends_the_program() -> None:
    """A Ctrl-C while a program runs leaves nothing of it."""
    seen: list[int] = []

    def interrupt() -> None:
        until(lambda: children_of(os.getpid(), "sleep"))
        seen.extend(children_of(os.getpid(), "sleep"))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run.run(["sleep", "61"])
    thread.join()
    assert seen
    assert all(wait_until_gone(pid) for pid in seen)


def test_an_interrupt_of_its_start_ends_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C while Popen waits for the new process' word, before there is a handle to end it by."""
    seen: list[int] = []

    def read(descriptor: int, length: int) -> bytes:
        monkeypatch.undo()
        said = os.read(descriptor, length)
        seen.extend(children_of(os.getpid(), "sleep"))
        os.kill(os.getpid(), signal.SIGINT)
        return said

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(KeyboardInterrupt):
        run.run(["sleep", "61"])
    assert seen, "the program had begun"
    assert not children_of(os.getpid(), "sleep")


def children_of(parent: int, name: str) -> list[int]:
    """The processes of that name whose parent is ``parent``."""
    stats = {pid: text.rpartition(")") for pid, text in every.texts("stat")}
    return [
        pid
        for pid, (head, _, tail) in stats.items()
        if head.endswith(f"({name}") and int(tail.split()[1]) == parent
    ]


def test_a_program_sees_the_allowed_variables_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets and settings of the caller's stay out; what the call gives is in."""
    monkeypatch.setenv("LABKIT_WIKI_PASSWORD", "secret")
    monkeypatch.setenv("PYTHONPATH", "/x")
    monkeypatch.setenv("LC_ALL", "fr_FR.UTF-8")
    monkeypatch.setenv("PATH", "/x")
    monkeypatch.setenv("TZ", "UTC")
    lines = run.run(["env"], env={"GIVEN": "1"}).stdout.splitlines()
    seen = dict(line.split("=", 1) for line in lines)
    assert seen["GIVEN"] == "1"
    assert seen["LC_ALL"] == "C.UTF-8"
    assert seen["PATH"] == run.PATH
    assert seen["HOME"] == run.HOME
    assert seen["TZ"] == "UTC"
    assert not seen.keys() & {"LABKIT_WIKI_PASSWORD", "PYTHONPATH"}
    assert seen.keys() <= {
        *run.ALLOWED, *run.program_environment(), "GIVEN",
    }  # fmt: skip


def test_standard_input_is_closed_unless_given() -> None:
    """A program that asks gets no answer, and does not wait for one."""
    assert run.run(["cat"]).stdout == ""
    assert run.run(["cat"], stdin="text\n").stdout == "text\n"


def test_lines_are_handed_on_while_the_program_runs() -> None:
    """Progress comes line by line; both outputs are returned whole all the same."""
    lines: list[str] = []
    said: list[str] = []
    script = "echo one >&2; sleep 0.1; echo two; sleep 0.1; echo three >&2"
    done = run.run(["sh", "-c", script], on_line=lines.append, on_output=said.append)
    assert (lines, said) == (["one", "three"], ["two"])
    assert (done.stdout, done.stderr) == ("two\n", "one\nthree\n")


def test_a_child_that_keeps_the_output_does_not_hold_its_caller(tmp_path: Path) -> None:
    """With a file for the outputs, a program that leaves a child behind ends for its caller."""
    log = tmp_path / "log"
    run.run(["sh", "-c", "sleep 60 & echo $!"], output=log, timeout=20)
    child = int(log.read_text())
    assert not gone(child)
    os.kill(child, signal.SIGKILL)


def test_a_trace_has_what_ran_but_not_what_is_nobodys_business() -> None:
    """Every program in the order of its end, failed ones too; quiet ones are left out."""
    with run.tracing() as done:
        run.run(["true"])
        run.run(["echo", "secret"], quiet=True)
        with pytest.raises(CommandError):
            run.run(["false"])
    assert [(item.argv, item.status) for item in done] == [(("true",), 0), (("false",), 1)]


def test_work_is_spread_in_order_and_traced() -> None:
    """Results come in the items' order; what the threads ran is in the caller's trace."""
    with run.tracing() as done:
        found = run.spread(lambda n: run.run(["echo", str(n)]).stdout, range(6))
    assert found == [f"{n}\n" for n in range(6)]
    assert len(done) == 6


def test_all_are_tried_before_the_first_error_is_raised() -> None:
    """One failure does not keep the others from being done."""
    tried: list[int] = []

    def attempt(number: int) -> None:
        tried.append(number)
        run.run(["sh", "-c", f"exit {number}"])

    with pytest.raises(CommandError) as caught:
        run.spread(attempt, [0, 3, 0, 4])
    assert caught.value.status == 3
    assert sorted(tried) == [0, 0, 3, 4]


def test_a_started_program_goes_on_in_a_session_of_its_own() -> None:
    """It has no terminal, and no signal of its caller's group reaches it."""
    process = run.start(["sleep", "60"])
    try:
        assert os.getsid(process.pid) == process.pid
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("netns", "words"),
    [(None, ["id"]), ("t1", ["nsenter", "--net=/run/netns/t1", "--", "id"])],
)
def test_a_namespace_is_entered_by_name(netns: str | None, words: list[str]) -> None:
    """Without one, the arguments stay as they are."""
    assert run.inside(["id"], netns) == words


def test_becoming_another_program_keeps_the_process() -> None:
    """The front ends of other programs add nothing between them and the terminal."""
    code = "import os; from labkit.core import run; run.replace(['sh', '-c', 'echo $PPID $X'], env={'X': 'x'})"
    done = run.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    assert done.stdout.split() == [str(os.getpid()), "x"]


def test_a_program_whose_output_goes_to_a_file_is_ended_after_its_time(tmp_path: Path) -> None:
    """As one whose output is read; one that ends by itself is not waited for any longer."""
    with pytest.raises(CommandTimeoutError):
        run.run(["sleep", "60"], output=tmp_path / "out", timeout=0.2)
    assert run.run(["sh", "-c", "echo done"], output=tmp_path / "out").status == 0
    assert (tmp_path / "out").read_text() == "done\n"
