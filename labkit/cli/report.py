"""Commands about the report: its page on the wiki, the remarks in it, the review site, signatures; and labkit's tests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.command import Choice, app, command, finish, log_to_file, show, worded
from labkit.display import counted

if TYPE_CHECKING:
    from labkit.core.result import Result
    from labkit.wiki.publish.editor import PagePlan


@command
def publish(
    choice: Choice,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Show what would change on the page; write nothing."),
    ] = False,
    restore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BLOCK",
            help="Publish a block, or the page, that a person deleted; may be repeated.",
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="First mend damaged comments of labkit's; no line is lost."),
    ] = False,
) -> None:
    """Publish the report to the wiki; people's lines stay.

    Only blocks that have changed are written, and only pictures that are missing. --dry-run shows both
    as a difference against the page as it is now; with --repair it shows what would be mended.
    """
    from labkit.report.page import publication
    from labkit.report.stages import verification

    lab = choice.lab()
    wanted = tuple(restore or ())
    if dry_run and repair:
        mending = publication.mend(lab)
        _show_changes(
            mending,
            choice,
            [(mending.value.page, mending.value.diff)] if mending.value.diff else [],
        )
    elif dry_run:
        plan = publication.plan(lab, restore=wanted)
        _show_changes(plan, choice, _changes(plan.value))
    else:
        log_to_file(lab)
        verification.require(lab)
        finish(publication.publish(lab, restore=wanted, repair=repair), choice)


@worded
def answer(
    choice: Choice,
    identity: Annotated[str, typer.Argument(metavar="ID", help="As labkit remarks tells it.")],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="One line; [[links]] and ''emphasis'' work.")
    ],
) -> None:
    """Answer a remark on the wiki, in the student's name.

    The answer stands below the remark, signed; the same answer is not given twice. A remark is settled
    by its writer or a teacher, on the page: with a line REX> settled below it.
    """
    from labkit.wiki.remarks import answers

    lab = choice.lab(log=True)
    finish(answers.answer(lab, identity, text), choice)


@command
def remarks(
    choice: Choice,
    only_open: Annotated[
        bool, typer.Option("--open", help="Show those alone that wait for an answer.")
    ] = False,
    audit: Annotated[
        bool,
        typer.Option("--audit", help="Look through the page's history for lines that labkit lost."),
    ] = False,
) -> None:
    """List people's remarks, and their changes of labkit's lines.

    Each with its state, its author and the run that it was made on; also those that somebody else than
    the author deleted or rewrote. They are kept for the review site. With --audit the exit status is 1 when labkit ever took away a line that a person wrote.
    """
    lab = choice.lab(log=True)
    if audit:
        from labkit.wiki.remarks import audit as auditing

        finish(auditing.audit(lab), choice)
        return
    from labkit.report.stages import discussion

    finish(discussion.remarks(lab, only="open" if only_open else None), choice)


def _changes(plan: PagePlan) -> Iterator[tuple[str, str]]:
    """The differences that publishing would make, each with a heading; pictures to upload have a heading alone."""
    for change in plan.changes:
        if change.state == "unchanged":
            continue
        hint = (
            f", {counted(len(change.kept), 'line')} written by people kept" if change.kept else ""
        )
        if change.state == "deleted":
            hint = f" by a person (--restore {change.name})"
        yield f"{change.name}: {change.state}{hint}", change.diff
    if plan.listed:
        yield "the comment that lists the blocks", plan.listed
    for name in plan.missing:
        yield f"picture to upload: {name}", ""


def _show_changes(result: Result[Any], choice: Choice, changes: Iterable[tuple[str, str]]) -> None:
    from labkit.cli import terminal

    for heading, diff in () if choice.as_json else changes:
        terminal.show_difference(heading, diff)
    show(result, choice, checks=False)


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
        typer.echo(f"labkit: {project}: has no tests: run it in a clone of the project", err=True)
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
