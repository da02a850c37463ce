"""The ``labkit`` command's front: what it says of itself, and how a command is added to it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand

from labkit import __version__
from labkit.cli.command import with_options

app = typer.Typer(
    help=(
        "Does a virtualisation lab for real, and writes its report from what happened: a farm of web "
        "servers in runC containers behind an apache2 load balancer, named by a local DNS, reported "
        "on in a local MediaWiki.\n\n"
        "Everything has a default; lab.toml (here or in a folder above) overrides it, and options "
        "override that. First time here: labkit doctor, then labkit rebuild."
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
