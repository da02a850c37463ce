"""Commands that run the stages, one by one or all."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from labkit.cli.command import Choice, command, leave, log_to_file, show
from labkit.errors import ConfigError


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

    from labkit.report.batch.progress import Progress, next_steps
    from labkit.report.batch.rebuild import find, notebooks_folder
    from labkit.report.batch.rebuild import rebuild as run_stages
    from labkit.report.batch.schedule import Wish
    from labkit.report.site import review

    lab = choice.lab(others=True)
    asked = Wish.model_validate({**wish, "parameters": choice.parameters()})
    find(asked.plans(), notebooks_folder(), asked.parameters)  # refused before the log is begun
    log_to_file(lab)
    progress = Progress(Console(stderr=True))
    result = run_stages(lab, asked, progress=progress)
    site = lab.output_dir / review.build(lab).value.index
    show(result, choice, checks=False)
    if not choice.as_json:
        for head, said in next_steps(lab, site, whole=not asked.stages):
            typer.echo(f"{head + ':' if head else '':<13}{said}")
    leave(result, result.value.interrupted)


@command
def notebook(
    choice: Choice,
    port: Annotated[int, typer.Option(help="JupyterLab's port on 127.0.0.1.")] = 8888,
) -> None:
    """Open the notebooks in JupyterLab, on this machine alone.

    It listens on 127.0.0.1 and asks for a token; the address that it prints has the token in it. The notebooks see the same lab as this command.
    Called with sudo, JupyterLab is the person's own, and so is what it saves; its kernels alone are root's, and end with it.
    """
    from labkit.core import run as door
    from labkit.report.batch.notebook import write_lab_file
    from labkit.report.batch.rebuild import BROUGHT, notebooks_folder
    from labkit.report.jupyter import broker

    if notebooks_folder() == BROUGHT:
        raise ConfigError(
            "notebooks",
            "this folder has no notebooks, and those of the installed package are read-only",
            f"copy them here: cp -r {shlex.quote(str(BROUGHT))} .",
            f"ls {shlex.quote(str(BROUGHT))}",
            code="config.no-notebook",
        )
    lab = choice.lab()
    # a kernel `python3` in somebody's home is not this interpreter
    settings = {"LABKIT_FILE": str(write_lab_file(lab)), "JUPYTER_PREFER_ENV_PATH": "1"}
    who = broker.caller(os.environ, os.geteuid())
    words = door.module(
        "jupyterlab",
        "--ServerApp.ip=127.0.0.1",
        "--LabApp.news_url=None",  # nothing is asked of the outside, nor of the student
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        f"--LabApp.app_settings_dir={Path(__file__).parents[1] / 'report' / 'jupyter' / 'lab_settings'}",
        f"--ServerApp.port={port}",
        f"--ServerApp.root_dir={notebooks_folder()}",
        *(("--allow-root",) if os.geteuid() == 0 and who is None else ()),
    )  # fmt: skip
    if who is None:
        door.replace(words, env=settings)
    else:
        raise typer.Exit(broker.serve(lab, who, words, settings))
