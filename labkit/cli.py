"""The ``labkit`` command: a thin front over the package's own functions.

What an action found goes to standard output (``--json``: its record), progress and errors to
standard error. The exit status is 0 when all is as it should be, 1 when something is not, 2 for a
command line that is none, and 128 and the signal's number after a signal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from labkit.errors import ConfigError
from labkit.report.command import Choice, finish, joined, leave, log_to_file, show, with_options

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


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Adds a command that also has the options of every command."""
    app.command()(with_options(function))
    return function


# -- the batch -------------------------------------------------------------------------------------


@command
def rebuild(
    choice: Choice,
    force: Annotated[
        bool, typer.Option("--force", help="Run every stage, changed or not.")
    ] = False,
    start: Annotated[
        str,
        typer.Option("--from", metavar="STAGE", help="Run this stage and all that depend on it."),
    ] = "",
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", "-k", help="After a failure, run what does not depend on it."),
    ] = False,
) -> None:
    """Run what has changed, and build the review site.

    The main job: from nothing to the report. Every stage runs whose inputs have changed or whose
    containers and servers were taken down, side by side where they do not depend on each other; a
    second rebuild runs nothing. What it leaves is in outputs/LAB, whose review/index.html shows it.
    """
    _batch(choice, force=force, start=start, keep_going=keep_going)


@command
def run(
    choice: Choice,
    stages: Annotated[list[str], typer.Argument(metavar="STAGE…", help="Such as 04-network.")],
) -> None:
    """Run these stages, changed or not, and nothing else."""
    _batch(choice, stages=tuple(stages), force=True)


def _batch(choice: Choice, **wish: Any) -> None:
    from rich.console import Console

    from labkit.report import review
    from labkit.report.progress import Progress
    from labkit.report.rebuild import find, notebooks_folder
    from labkit.report.rebuild import rebuild as run_stages
    from labkit.report.schedule import Wish

    lab = choice.lab(others=True)
    asked = Wish.model_validate({**wish, "parameters": choice.parameters()})
    find(asked.plans(), notebooks_folder(), asked.parameters)  # refused before the log is begun
    log_to_file(lab)
    progress = Progress(Console(stderr=True))
    result = run_stages(lab, asked, progress=progress)
    site = lab.output_dir / review.build(lab).value.index
    show(result, choice, checks=False)
    if not choice.as_json:
        typer.echo(f"Review site: {site}")
    leave(result, result.value.interrupted)


@command
def notebook(
    choice: Choice,
    port: Annotated[int, typer.Option(help="JupyterLab's port on 127.0.0.1.")] = 8888,
) -> None:
    """Open the notebooks in JupyterLab, on this machine alone.

    It listens on 127.0.0.1 and asks for a token; the address that it prints has the token in it. The notebooks see the same lab as this command.
    """
    from labkit import run as door
    from labkit.report.notebook import write_lab_file
    from labkit.report.rebuild import notebooks_folder

    lab = choice.lab()
    file = write_lab_file(lab)
    words = (
        sys.executable, "-m", "jupyterlab",
        "--ServerApp.ip=127.0.0.1",
        "--LabApp.news_url=None",  # nothing is asked of the outside, nor of the student
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        f"--LabApp.app_settings_dir={Path(__file__).parent / 'report' / 'jupyterlab'}",
        f"--ServerApp.port={port}",
        f"--ServerApp.root_dir={notebooks_folder()}",
        *(("--allow-root",) if os.geteuid() == 0 else ()),
    )  # fmt: skip
    door.replace(words, env={"LABKIT_FILE": str(file)})


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
    from labkit.report import difference, publication

    lab = choice.lab()
    wanted = tuple(restore or ())
    if dry_run and repair:
        difference.tell_mending(publication.mend(lab), choice)
    elif dry_run:
        difference.tell_plan(publication.plan(lab, restore=wanted), choice)
    else:
        log_to_file(lab)
        finish(publication.publish(lab, restore=wanted, repair=repair), choice)


@command
def answer(
    choice: Choice,
    identity: Annotated[str, typer.Argument(metavar="ID", help="As labkit remarks tells it.")],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="One line; [[links]] and ''emphasis'' work.")
    ],
) -> None:
    """Answer a remark on the wiki, in the student's name.

    The answer stands below the remark, signed; the same answer is not given twice. A remark is settled
    by its writer, on the page: with a line REX> settled below it.
    """
    from labkit.wiki import answers

    lab = choice.lab()
    log_to_file(lab)
    finish(answers.answer(lab, identity, text), choice)


@command
def down(choice: Choice) -> None:
    """Take down what labkit made on this machine.

    Containers, links, mounts, servers and namespaces of this lab; its outputs, and what its
    wiki holds, stay."""
    lab = choice.lab()
    if lab.state_dir.exists():  # else nothing was ever up, and nothing is left of having asked
        log_to_file(lab)
    from labkit.report import standing

    finish(standing.down(lab), choice)


# -- looking -----------------------------------------------------------------------------------------


@command
def status(choice: Choice) -> None:
    """What is up now, from observation."""
    lab = choice.lab()
    from labkit.report import standing

    show(standing.status(lab), choice)


@command
def check(choice: Choice) -> None:
    """Run the checks on what is up now.

    The exit status is 1 when one of them does not hold."""
    lab = choice.lab()
    from labkit.report import standing

    finish(standing.checks(lab), choice)


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
    """List the remarks that people wrote in the report.

    Each with its state, its author and the run that it was made on; they are also kept for the review
    site. With --audit the exit status is 1 when labkit ever took away a line that a person wrote.
    """
    lab = choice.lab()
    log_to_file(lab)
    if audit:
        from labkit.wiki import audit as auditing

        finish(auditing.audit(lab), choice)
        return
    from labkit.report import dialogue

    finish(dialogue.remarks(lab, only="open" if only_open else None), choice)


@command
def review(choice: Choice) -> None:
    """Build the review site, and say where it is."""
    from labkit.report import review as reviewing

    finish(reviewing.build(choice.lab()), choice)


@command
def doctor(choice: Choice) -> None:
    """Say what keeps this machine from running the lab.

    Each blocker comes with its remedy; the exit status is 1 when there is one."""
    from labkit import doctor as doctors

    finish(doctors.examine(choice.lab()), choice)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def test(context: typer.Context) -> None:
    """Run labkit's own tests; the arguments are pytest's.

    They run side by side, one on each processor; with -n 0 one after the other."""
    from labkit import run as door

    project = Path(__file__).parents[1]
    if not (project / "tests").is_dir():
        typer.echo(
            f"labkit: {project}: has no tests: call it from a clone of the project", err=True
        )
        raise typer.Exit(1)
    os.chdir(project)
    side_by_side = ("-n", "auto", "--dist", "loadfile")
    door.replace([sys.executable, "-m", "pytest", *side_by_side, *context.args])


def main() -> None:
    """The console script."""
    try:
        arguments = joined(sys.argv[1:])
    except ConfigError as error:
        typer.echo(f"labkit: {error}", err=True)
        raise SystemExit(2) from None
    app(arguments, prog_name="labkit")


if __name__ == "__main__":
    main()
