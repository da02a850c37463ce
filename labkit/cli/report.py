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
        typer.Option(
            "--repair", help="First repair damaged comments that labkit wrote; no line is lost."
        ),
    ] = False,
) -> None:
    """Publish the report to the wiki; lines that people wrote stay.

    Only changed blocks and missing pictures are written. --dry-run shows them as a difference from the
    present page; with --repair it shows the repair instead.
    """
    from labkit.report.page import publication
    from labkit.report.stages import record as records

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
        records.require(lab)
        finish(publication.publish(lab, restore=wanted, repair=repair), choice)


@worded
def answer(
    choice: Choice,
    identity: Annotated[
        str,
        typer.Argument(metavar="ID", help="The remark's identifier, as labkit remarks shows it."),
    ],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="One line; [[links]] and ''emphasis'' work.")
    ],
) -> None:
    """Answer a remark on the wiki, as the student.

    The signed answer is written below the remark; the same answer is not written twice. Its writer or a
    teacher settles a remark on the page, with a line REX> settled below it.
    """
    from labkit.wiki.remarks import answers

    lab = choice.lab(log=True)
    finish(answers.answer(lab, identity, text), choice)


@command
def remarks(
    choice: Choice,
    only_open: Annotated[
        bool, typer.Option("--open", help="Show only remarks that wait for an answer.")
    ] = False,
    audit: Annotated[
        bool,
        typer.Option("--audit", help="Search the page's history for lines that labkit lost."),
    ] = False,
) -> None:
    """List remarks, and people's changes of labkit's lines.

    Each remark has its state, its author and the run that it is about. Remarks that another person deleted or rewrote
    are listed, too. The list is kept for the review site. With --audit the exit status is 1 if labkit ever removed a
    line that a person wrote.
    """
    lab = choice.lab(log=True)
    if audit:
        from labkit.wiki.remarks import audit as auditing

        finish(auditing.audit(lab), choice)
        return
    from labkit.report.site import discussion

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
    """Build the review site, and print its path."""
    from labkit.report.site import review as reviewing

    finish(reviewing.build(choice.lab()), choice)


@command
def verify(
    choice: Choice,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]", help="A folder of outputs, or a copy (default: the lab's)."
        ),
    ] = None,
    key: Annotated[
        str, typer.Option(metavar="KEY", help="The public key that must have signed a copy.")
    ] = "",
) -> None:
    """Check that the outputs are as labkit signed them.

    Labkit signs results, tables, figures, notebooks and pages with the lab's key. Files that were changed, added,
    removed or not signed are listed; the exit status is then 1. A copy of the outputs is compared with the key that it
    contains, and the output says whose key that is; --key demands a certain one.
    """
    from labkit.report.stages import record as records

    finish(records.verify(choice.lab(), folder, key=key), choice)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def test(context: typer.Context) -> None:
    """Run labkit's tests; the arguments are passed to pytest.

    They run side by side on all processors; with -n 0 one after the other."""
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
