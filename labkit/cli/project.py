"""Commands about the report's site and labkit itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.command import Choice, finish
from labkit.cli.front import app, command


@command
def review(choice: Choice) -> None:
    """Build the review site, and say where it is."""
    from labkit.report.site import review as reviewing

    finish(reviewing.build(choice.lab()), choice)


@command
def verify(
    choice: Choice,
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="Outputs, or a copy of them (default: the lab's)."),
    ] = None,
    key: Annotated[
        str, typer.Option(metavar="KEY", help="The public key that must have signed a copy.")
    ] = "",
) -> None:
    """Name each file of the outputs that is not as it was signed.

    Results, tables, figures, notebooks and pages must be as labkit wrote and signed them with the lab's key. A copy
    of the outputs is held against the key that it names itself, and whose that is is said. The exit status is 1 when a file
    was changed, added or removed, or is not signed.
    """
    from labkit.report.stages import verification

    finish(verification.verify(choice.lab(), folder, key=key), choice)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def test(context: typer.Context) -> None:
    """Run labkit's own tests; the arguments are pytest's.

    They run side by side, one on each processor; with -n 0 one after the other."""
    from labkit.core import run as door

    project = Path(__file__).parents[2]
    if not (project / "tests").is_dir():
        typer.echo(
            f"labkit: {project}: has no tests: call it from a clone of the project", err=True
        )
        raise typer.Exit(1)
    os.chdir(project)
    side_by_side = ("-n", "auto", "--dist", "loadfile")
    door.replace([*_open(project), *door.module("pytest", *side_by_side, *context.args)])


def _open(project: Path) -> tuple[str, ...]:
    """The words by which root's tests run where every account may enter the clone: some act as another one. A
    folder above that others may not enter (a home folder) is covered, in a mount namespace that ends with them."""
    closed = [folder for folder in project.parents if not folder.stat().st_mode & 0o001]
    if os.geteuid() or not closed:
        return ()
    script = (
        'mount --bind "$0" /mnt && mount -t tmpfs -o mode=0755 tmpfs "$1" && mkdir -p "$0" && '
        'mount --move /mnt "$0" && cd "$0" && shift && exec "$@"'
    )
    unshared = ("unshare", "--mount", "--propagation=private", "--")
    return (*unshared, "sh", "-c", script, str(project), str(closed[-1]))
