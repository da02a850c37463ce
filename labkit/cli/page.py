"""Commands about the report's page on the wiki and the remarks in it."""

from __future__ import annotations

from typing import Annotated

import typer

from labkit.cli.command import Choice, finish, log_to_file
from labkit.cli.front import command, worded


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
    from labkit.cli import difference
    from labkit.report.page import publication
    from labkit.report.stages import verification

    lab = choice.lab()
    wanted = tuple(restore or ())
    if dry_run and repair:
        difference.tell_mending(publication.mend(lab), choice)
    elif dry_run:
        difference.tell_plan(publication.plan(lab, restore=wanted), choice)
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

    lab = choice.lab()
    log_to_file(lab)
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
    lab = choice.lab()
    log_to_file(lab)
    if audit:
        from labkit.wiki.remarks import audit as auditing

        finish(auditing.audit(lab), choice)
        return
    from labkit.report.stages import dialogue

    finish(dialogue.remarks(lab, only="open" if only_open else None), choice)
