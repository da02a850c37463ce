"""Commands that run stages: rebuild (all of them), run (some), notebook (by hand, in JupyterLab)."""

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
        bool, typer.Option("--force", help="Run every stage, also when nothing has changed.")
    ] = False,
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="STAGE", help="Run this stage and all stages that depend on it."
        ),
    ] = "",
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going", "-k", help="After a failed stage, run those that do not depend on it."
        ),
    ] = False,
) -> None:
    """Run the stages that have to run, and build the review site.

    The first rebuild runs all stages, up to the published report. Later ones run the stages whose inputs
    have changed or whose containers and servers were taken down. Stages that do not depend on each other
    run side by side. The results are in outputs/LAB; open review/index.html there.
    """
    _batch(choice, force=force, start=start, keep_going=keep_going)


@command
def run(
    choice: Choice,
    stages: Annotated[
        list[str], typer.Argument(metavar="STAGE…", help="Stages by name, such as 04-network.")
    ],
) -> None:
    """Run the named stages, also when nothing has changed."""
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
    find(asked.plans(lab), notebooks_folder(), asked.parameters)  # refused before the log is begun
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
    """Open the notebooks in JupyterLab, for this machine only.

    JupyterLab listens on 127.0.0.1 and asks for a token, which is in the address that it prints. The notebooks use the
    lab of this command line. With sudo, JupyterLab runs as the user who called sudo, who also owns the files that it
    saves; only its kernels run as root, and they end with it.
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
