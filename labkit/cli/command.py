"""The frame of every ``labkit`` command: common options, errors, logs, and how a result is shown."""

from __future__ import annotations

import atexit
import functools
import inspect
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand

from labkit import __version__, display, reading
from labkit.core.files import hand_back
from labkit.errors import ConfigError, LabkitError, of_system

if TYPE_CHECKING:
    from labkit.core.result import Result
    from labkit.model.lab import Lab


log = logging.getLogger("labkit.command")
#: The exit status of `plan --exit-code` when something would change.
CHANGES = 3


@dataclass(frozen=True)
class Choice:
    """The options that every command has: which lab, and how its result is shown."""

    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="The lab.toml to read.")
    ] = None
    lab_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The lab's name (default: lab).")
    ] = None
    netns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Use this network namespace, made by labkit, as the host."
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="NAME=VALUE",
            help="Override a parameter or a key of lab.toml, such as wiki.page; may be repeated. "
            "-p NAME VALUE does the same.",
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False
    debug: Annotated[
        bool, typer.Option("--debug", help="Show each command that labkit runs, and tracebacks.")
    ] = False
    offline: Annotated[
        bool, typer.Option("--offline", help="Contact no mirror; fail if something has to be downloaded.")
    ] = False  # fmt: skip

    def parameters(self) -> dict[str, Any]:
        """All parameters given, by their flat names; the last of a name counts. Raises
        :class:`ConfigError`, with the nearest one, for a key that lab.toml does not have."""
        from labkit.model.config import PARAMETERS, unknown

        flat = {key: name for name, key in PARAMETERS.items()}
        given = dict(map(pair, self.settings or ()))
        for name in given:
            if "." in name and name not in flat:
                raise unknown(name, flat, "a key of lab.toml")
        named = {"lab_name": self.lab_name, "netns": self.netns}
        return {
            **{flat.get(name, name): value for name, value in given.items()},
            **{name: value for name, value in named.items() if value is not None},
            **({"offline": True} if self.offline else {}),
        }

    def lab(self, *, others: bool = False, log: bool = False) -> Lab:
        """The lab.

        :param others: parameters that the lab does not have may be a notebook's.
        :param log: what is done is written into the lab's log (:func:`log_to_file`).
        """
        from labkit.model.config import PARAMETERS
        from labkit.model.lab import Lab

        file = self.config or (
            Path(os.environ["LABKIT_FILE"]) if "LABKIT_FILE" in os.environ else None
        )
        given = self.parameters()
        mine = {name: value for name, value in given.items() if name in PARAMETERS or not others}
        lab = Lab.load(file, **mine)
        if log:
            log_to_file(lab)
        return lab


def pair(option: str) -> tuple[str, Any]:
    """``replicas=3`` or ``proxy.port=81`` as name and value, which is JSON where it is JSON (numbers, true,
    null, lists), else the text itself; :class:`ConfigError` when it is no such pair."""
    name, equals, value = option.partition("=")
    if not equals or not name.replace(".", "").isidentifier():
        raise ConfigError(
            display.quoted(option),
            "is not NAME=VALUE",
            "write it like replicas=3",
            code="config.option",
        )
    try:
        return name, reading.parsed(value)
    except ValueError:
        return name, value


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """``function(choice, …)`` as a command's function, which also has the options of :class:`Choice`.

    An error is printed on standard error, without a traceback; the exit status is then 1.
    """
    options = inspect.signature(Choice).parameters
    own = list(inspect.signature(function).parameters.values())[1:]

    @functools.wraps(function)
    def called(**given: Any) -> None:
        choice = Choice(**{name: given.pop(name) for name in options})
        try:
            if choice.debug:
                logging.basicConfig(format="%(name)s: %(message)s", stream=sys.stderr)
                logging.getLogger("labkit").setLevel(logging.DEBUG)
            function(choice, **given)
        except (typer.Exit, BrokenPipeError):  # the latter: who reads (`head`) has seen enough
            raise
        except Exception as error:
            if choice.debug:
                raise
            log.debug("ended by", exc_info=error)
            said = told(error)
            typer.echo(f"labkit: {display.shown(str(said))}", err=True)
            if choice.as_json:
                typer.echo(json.dumps({"error": said.record}, indent=1))
            raise typer.Exit(1) from None

    hints = get_type_hints(function, include_extras=True)
    hints |= get_type_hints(Choice, include_extras=True)
    parameters = [
        item.replace(annotation=hints[item.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for item in (*own, *options.values())
    ]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {item.name: item.annotation for item in parameters}
    return called


def told(error: Exception) -> LabkitError:
    """An error as a :class:`LabkitError`: labkit's, the operating system's (a read-only folder, a full disk), or a fault
    in labkit."""
    if isinstance(error, LabkitError):
        return error
    if isinstance(error, OSError):
        return of_system(error)
    return LabkitError(
        type(error).__name__,
        f"{error} (a fault in labkit itself)",
        "run it again with --debug, and report what that shows",
        code="labkit.fault",
    )


def finish(result: Result[Any], choice: Choice) -> None:
    """Prints a result; exits with 1 when one of its checks does not hold."""
    show(result, choice)
    leave(result)


def show(result: Result[Any], choice: Choice, *, checks: bool = True) -> None:
    """Prints a result: as JSON, in UTF-8 (RFC 8259) whatever the terminal's character set is; or as tables and sentences."""
    if choice.as_json:
        typer.echo(result.model_dump_json(indent=1).encode())
        return
    from labkit.cli import terminal

    terminal.show(result, checks=checks)


def leave(result: Result[Any], interrupted: str = "") -> None:
    """Exits with 128 + the signal's number or with 1 after a failure; returns after a success."""
    if interrupted:
        raise typer.Exit(128 + signal.Signals[interrupted])
    if not result.holds:
        raise typer.Exit(1)


def log_to_file(lab: Lab) -> None:
    """Writes what is done into ``outputs/LAB/labkit.log``, and the last megabyte before into ``.1``."""
    from logging.handlers import RotatingFileHandler

    from labkit.core.journal import not_root

    path = lab.output_dir / "labkit.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atexit.register(hand_back, Path(lab.outputs))
        handler = RotatingFileHandler(
            path, maxBytes=1_000_000, backupCount=1, encoding="utf-8", errors="backslashreplace"
        )
    except PermissionError:
        raise not_root(str(path)) from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    log = logging.getLogger("labkit")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.info("labkit %s", " ".join(sys.argv[1:]))


def joined(arguments: Sequence[str]) -> list[str]:
    """A command line with papermill's ``-p NAME VALUE`` as ``--set NAME=VALUE``; pytest's are its own."""
    left = list(arguments)
    done: list[str] = []
    while left and "test" not in done:
        word = left.pop(0)
        if word != "-p":
            done.append(word)
        elif len(left) < 2:
            raise ConfigError(
                "-p",
                "needs a name and a value",
                "write it like -p replicas 3",
                code="config.option",
            )
        else:
            done += ["--set", f"{left.pop(0)}={left.pop(0)}"]
    return [*done, *left]


app = typer.Typer(
    help=(
        "Runs a virtualisation lab on this machine and writes its report from the results: a farm of web "
        "servers in runC containers behind an apache2 load balancer, with a name server, reported on "
        "in a local MediaWiki.\n\n"
        "Every setting has a default. A lab.toml in this folder or a folder above overrides defaults, and "
        "options override lab.toml. To begin: labkit doctor, then labkit rebuild."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"labkit {__version__}")
        raise typer.Exit


@app.callback()
def front(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    # What the command says of itself stands above: a docstring would take its place.
    pass


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Adds a command that also has the options of every command."""
    app.command()(with_options(function))
    return function


def group(name: str, about: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a command that is a group of commands; what it returns adds one of these, by the last part of its name
    (``export_swarm`` is ``swarm`` in ``export``)."""
    inner = typer.Typer(help=about, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(inner, name=name)

    def add(function: Callable[..., None]) -> Callable[..., None]:
        inner.command(function.__name__.removeprefix(f"{name}_"))(with_options(function))
        return function

    return add


class Worded(TyperCommand):
    """A command whose arguments are people's words, which may begin with a hyphen: an option is only what is one to
    the letter, and nothing after ``--``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the arguments behind the options."""
        options = [item for item in self.get_params(ctx) if not isinstance(item, TyperArgument)]
        takes = {
            name: not getattr(option, "is_flag", False)
            for option in options
            for name in option.opts
        }
        given, words, rest = list[str](), list[str](), iter(args)
        for word in rest:
            name, equals, _ = word.partition("=")
            if word == "--":
                words += rest
            elif word in takes:
                given += [word, *islice(rest, 1 if takes[word] else 0)]
            elif equals and name.startswith("--") and takes.get(name):
                given.append(word)
            else:
                words.append(word)
        return super().parse_args(ctx, [*given, "--", *words])


def worded(function: Callable[..., None]) -> Callable[..., None]:
    """The same with arguments that may begin with a hyphen."""
    app.command(cls=Worded)(with_options(function))
    return function
