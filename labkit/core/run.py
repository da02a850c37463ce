"""Runs other programs: the one place that starts them.

Nothing else in labkit imports :mod:`subprocess`. A program is started from a list of arguments,
never from a shell string; with an environment on an allow-list; with its standard input closed
unless the caller gives one. Which exit statuses are good is named at the call.
"""

from __future__ import annotations

import contextvars
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from labkit import cancellation
from labkit.errors import CommandError, CommandTimeoutError, MachineError, typed
from labkit.kernel import proc

log = logging.getLogger("labkit.core.run")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Done:
    """A program that has ended: what was asked, and what came back."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def command(self) -> str:
        """The command as one would type it into a shell (:func:`labkit.errors.typed`)."""
        return typed(self.argv)


_trace: contextvars.ContextVar[list[Done] | None] = contextvars.ContextVar("trace", default=None)


@contextmanager
def tracing() -> Iterator[list[Done]]:
    """Collects every program that ends while the block runs, in the order of their ends."""
    done: list[Done] = []
    token = _trace.set(done)
    try:
        yield done
    finally:
        _trace.reset(token)
        outer = _trace.get()
        if outer is not None:
            outer.extend(done)


def inside(argv: Sequence[str], netns: str | None) -> list[str]:
    """The argument list that runs ``argv`` in the network namespace ``netns`` (None: as it is).

    ``nsenter`` and not ``ip netns exec``: the latter mounts a new /sys, in which the cgroups are
    missing.
    """
    return [*(["nsenter", f"--net=/run/netns/{netns}", "--"] if netns else []), *argv]


def module(name: str, *words: str | Path) -> tuple[str, ...]:
    """The argument list that runs a module by this interpreter; no file of the caller's folder stands for a
    library's."""
    return (sys.executable, "-P", "-m", name, *map(str, words))


def which(program: str) -> str | None:
    """The path of a program on labkit's fixed search path, or None."""
    return shutil.which(program, path=PATH)


def run(
    argv: Sequence[str | Path],
    *,
    ok: Iterable[int] = (0,),
    netns: str | None = None,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 60.0,
    remedy: str = "",
    on_line: Callable[[str], None] | None = None,
    on_output: Callable[[str], None] | None = None,
    output: Path | None = None,
    quiet: bool = False,
) -> Done:
    """Runs a program to its end and returns what it wrote (text, UTF-8, errors replaced).

    :param ok: the exit statuses that are no error; any other raises :class:`CommandError`.
    :param timeout: seconds; then the program's whole process group is killed (:class:`CommandTimeoutError`).
    :param on_line: called with each line of standard error while the program runs (progress).
    :param on_output: the same with the lines of standard output; taken where ``on_line`` is given, too.
    :param output: a file to which both outputs are appended instead of being read: for a program
        that leaves a child behind which keeps them open (``runc create``, ``apache2 -k start``).
    :param quiet: leave the command out of the trace and the log (its arguments are secret).
    """
    full = inside([str(word) for word in argv], netns)
    started = time.monotonic()
    process = _start(full, stdin=stdin is not None, env=env, cwd=cwd, output=output)
    with process:  # which closes its streams, however it ends
        try:
            with cancellation.ended_by(partial(_end, process)):
                if output is not None and not proc.ended(process.pid, timeout):
                    raise subprocess.TimeoutExpired(full, timeout)
                if on_line is None:
                    out, err = process.communicate(stdin, timeout=timeout)
                else:
                    out, err = _follow(process, on_line, on_output, timeout)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise CommandTimeoutError(full, timeout) from None
        except BaseException:
            _kill(process)
            raise
    done = Done(tuple(full), process.returncode, out or "", err or "", time.monotonic() - started)
    if not quiet:
        _record(done)
    if done.status not in tuple(ok):
        raise CommandError(done.argv, done.status, done.stderr or done.stdout, remedy)
    return done


def start(
    argv: Sequence[str | Path],
    *,
    netns: str | None = None,
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
) -> subprocess.Popen[str]:
    """Starts a program that goes on by itself, in a session of its own.

    Its output goes to ``output`` or nowhere. The caller keeps the handle or the program's pid file;
    before that it has written its intent into the journal.
    """
    full = inside([str(word) for word in argv], netns)
    log.debug("start %s", shlex.join(full))
    if which(full[0]) is None:
        raise missing(full[0])
    return subprocess.Popen(
        full,
        stdin=subprocess.DEVNULL,
        stdout=output if output is not None else subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env=program_environment(env),
        start_new_session=True,
        text=True,
    )


def replace(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> None:
    """Becomes another program: does not return. For the front ends of JupyterLab and pytest."""
    words = [str(word) for word in argv]
    os.execvpe(words[0], words, persons_environment(env))  # noqa: S606 - becoming it is the point


def missing(program: str) -> MachineError:
    """The error for a program that this machine does not have."""
    return MachineError(
        program,
        "this program is not on the machine",
        "let `./lab doctor` install what is missing (it reads labkit/debian-packages.txt)",
        f"command -v {program}",
        code="machine.no-program",
    )


def require(*programs: str) -> None:
    """Raises :class:`MachineError` for the first of these programs that the machine lacks."""
    for program in programs:
        if which(program) is None:
            raise missing(program)


def spread(function: Callable[[T], R], items: Iterable[T], *, workers: int = 4) -> list[R]:
    """``function`` of each item, side by side in at most ``workers`` threads, in the items' order.

    All are tried; the first error, in that order, is raised when all have ended.
    """
    work = list(items)
    if len(work) < 2 or workers < 2:
        return [function(item) for item in work]
    return cancellation.together(
        [partial(function, item) for item in work], min(workers, len(work))
    )


class _Program(subprocess.Popen[str]):
    """A program that is ended when its own start is interrupted (Ctrl-C), which Popen leaves running."""

    pid = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            if self.pid:
                _kill(self)
            raise


def _start(
    argv: list[str],
    *,
    stdin: bool,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    output: Path | None = None,
) -> subprocess.Popen[str]:
    if which(argv[0]) is None:
        raise missing(argv[0])
    with ExitStack() as stack:
        sink = stack.enter_context(output.open("ab")) if output else None
        try:
            return _Program(
                argv,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=sink or subprocess.PIPE,
                stderr=sink or subprocess.PIPE,
                env=program_environment(env),
                cwd=cwd,
                start_new_session=True,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise MachineError(
                argv[0],
                f"cannot be started{f' in {cwd}' if cwd else ''}: {error.strerror}",
                "",
                typed(argv),
                code="machine.program-start",
            ) from None


def _follow(
    process: subprocess.Popen[str],
    on_line: Callable[[str], None],
    on_output: Callable[[str], None] | None,
    timeout: float,
) -> tuple[str, str]:
    """Reads both outputs while the program runs and hands lines on as they come."""

    def read(stream: IO[str] | None, tell: Callable[[str], None] | None) -> str:
        lines = []
        for line in stream or ():
            lines.append(line)
            if tell:
                tell(line.rstrip("\n"))
        return "".join(lines)

    deadline = time.monotonic() + timeout
    with ThreadPoolExecutor(2) as pool:
        err = pool.submit(contextvars.copy_context().run, read, process.stderr, on_line)
        out = pool.submit(contextvars.copy_context().run, read, process.stdout, on_output)
        try:
            # its end is seen and not asked for: until it is, its number names its group and no other
            ended = proc.ended(process.pid, timeout)
            wait([out, err], max(0.0, deadline - time.monotonic()), FIRST_EXCEPTION)
            if not (ended and out.done() and err.done()):  # a child may still hold the outputs
                raise subprocess.TimeoutExpired(process.args, timeout)
            process.wait()
        except BaseException:
            _kill(process)
            raise
        return out.result(), err.result()


def _kill(process: subprocess.Popen[str]) -> None:
    """The program and what it started are ended."""
    _end(process)
    process.wait()


def _end(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the program and what it started (its process group), unless its end was seen."""
    if process.returncode is None:
        process.kill()  # which may not lead its group yet
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _record(done: Done) -> None:
    log.debug("%s -> %d in %.3f s", shlex.join(done.argv), done.status, done.seconds)
    if (trace := _trace.get()) is not None:
        trace.append(done)


#: The caller's variables that every program sees: who calls, the terminal, the way to the network. TMPDIR is left
#: out: www-data cannot use a folder that is root's alone (libpam-tmpdir), and a chroot does not have it.
ALLOWED = (
    "USER", "LOGNAME", "SHELL", "TERM", "TZ",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
#: Further ones for a program in which a person works: JupyterLab, and the browser that it opens.
PERSONS = (
    "HOME", "TMPDIR", "BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS", "SUDO_UID", "SUDO_GID", "SUDO_USER",
)  # fmt: skip
#: A search path that finds the system's own programs even for a caller who is not root.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Debian's name for a home folder that does not exist: no program finds settings in it.
HOME = "/nonexistent"


def program_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a started program: the allow-list, a fixed PATH, HOME and locale, then ``extra``."""
    fixed = {"PATH": PATH, "HOME": HOME, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}
    if not os.geteuid():  # no compiled files of root's in a person's clone
        fixed["PYTHONDONTWRITEBYTECODE"] = "1"
    return {**_kept(ALLOWED), **fixed, **(extra or {})}


def labkit_variables() -> dict[str, str]:
    """labkit's own variables (``LABKIT_…``), for a program that imports labkit."""
    return _kept(name for name in os.environ if name.startswith("LABKIT_"))


def persons_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a program in which the person works who called labkit."""
    return program_environment({**_kept(PERSONS), **labkit_variables(), **(extra or {})})


def _kept(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
