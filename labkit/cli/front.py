"""The ``labkit`` command's front: what it says of itself, and how a command is added to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from labkit import __version__
from labkit.report.command import with_options

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
