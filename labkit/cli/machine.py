"""Commands about the lab on this machine: plan, apply, watch, down, status, check, doctor, gc, refresh."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from labkit import report
from labkit.cli.command import CHANGES, Choice, command, finish, log_to_file, show
from labkit.display import shown
from labkit.errors import ConfigError
from labkit.farm import reconcile

if TYPE_CHECKING:
    from labkit.farm.reconcile.upkeep import Mend


@command
def plan(
    choice: Choice,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 when something would change.")
    ] = False,
) -> None:
    """Show what apply would change, and why; change nothing.

    The lab.toml is compared with the machine: the bridge and its links, images, containers, the name server,
    the balancer. A second table has what only `rebuild` would do: start the wiki, run stages whose inputs have
    changed, publish the report."""
    lab = choice.lab()
    from labkit.report.batch import rebuild

    result = reconcile.upkeep.plan(lab)
    tables = (*result.tables, *rebuild.foresight(lab))
    show(result.model_copy(update={"tables": tables}), choice)
    if exit_code and not result.value.empty:
        raise typer.Exit(CHANGES)


@command
def apply(choice: Choice) -> None:
    """Change the farm to what lab.toml says.

    Only the parts that differ are changed, and the parts that depend on them. Requests through the
    balancer are answered meanwhile. A second apply changes nothing."""
    lab = choice.lab(log=True)
    finish(reconcile.upkeep.apply(lab), choice)


@command
def watch(
    choice: Choice,
    seconds: Annotated[
        float | None,
        typer.Option("--for", metavar="SECONDS", min=0, help="End after so many seconds."),
    ] = None,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Seconds between two comparisons.")
    ] = 1.0,
) -> None:
    """Watch the farm and repair it, until stopped.

    Every second the farm is compared with lab.toml, and differences are repaired as apply does it; a line is
    printed for each repair. Ctrl-C, SIGTERM or labkit down ends the watch after the current repair, with exit
    status 0. While a rebuild works on the lab, nothing is repaired."""
    lab = choice.lab(log=True)
    with until_stopped() as over:
        tell = partial(_tell_mend, choice)
        show(
            reconcile.upkeep.watch(lab, over=over, tell=tell, seconds=seconds, every=every), choice
        )


def _tell_mend(choice: Choice, mend: Mend) -> None:
    """A mend in a line: what the command is for, unless its record is to be read by a program."""
    typer.echo(shown(str(mend)).replace("\n", " "), err=choice.as_json)


@contextmanager
def until_stopped() -> Iterator[Event]:
    """An event that SIGINT and SIGTERM set while the block runs; a second one acts as without it."""
    over = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: object) -> None:
        over.set()
        restore()

    for number in before:
        signal.signal(number, stop)
    try:
        yield over
    finally:
        restore()


@command
def down(choice: Choice) -> None:
    """Take down the lab.

    Removes everything that labkit made on this machine for this lab: containers, links, mounts, servers and
    namespaces. The lab's outputs and the contents of its wiki stay."""
    lab = choice.lab()
    if lab.state_dir.exists():  # else nothing was ever up, and nothing is left of having asked
        log_to_file(lab)
    finish(report.status.down(lab), choice)


@command
def status(choice: Choice) -> None:
    """Show which parts of the lab are up."""
    show(report.status.status(choice.lab()), choice)


@command
def check(
    choice: Choice,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also read and compare every file that the lab is built from."),
    ] = False,
    engine: Annotated[
        Literal["swarm"] | None,
        typer.Option(help="Check the lab on this engine (engine.host) instead of on this machine."),
    ] = None,
) -> None:
    """Check the parts of the lab that are up.

    With --deep, all files that the lab is built from (packages, lists, root file systems, images, results in the cache,
    files of replicas) are also read and compared with their hashes. With --engine, the lab on the swarm is checked instead, as
    swarm check does it. The exit status is 1 when a check does not hold."""
    lab = choice.lab()
    if engine and deep:
        raise ConfigError("--deep", "reads files of this machine, and --engine looks at another", "leave one of them out", code="config.option")  # fmt: skip
    if engine:
        from labkit.cluster import swarm  # more to import than other commands need

        finish(swarm.check(lab), choice)
    else:
        finish(report.status.checks(lab, deep=deep), choice)


@command
def doctor(choice: Choice) -> None:
    """Check whether this machine can run the lab.

    Everything that is missing is listed with a remedy; the exit status is then 1. Nothing is changed."""
    from labkit import doctor as doctors

    finish(doctors.examine(choice.lab()), choice)


@command
def gc(
    choice: Choice,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what would be removed; remove nothing.")
    ] = False,
) -> None:
    """Remove unused files from the cache.

    These are superseded root file systems and images, downloaded packages that none of them contains, and
    remains of killed builds. Files of labs that were not taken down stay."""
    from labkit.farm import rootfs  # more to import than other commands need

    finish(rootfs.collect(choice.lab(), dry=dry_run), choice)


@command
def refresh(choice: Choice) -> None:
    """Fetch the mirror's current lists of packages.

    The next run that needs a root file system or an image with newer packages builds it again; others stay."""
    from labkit.farm import rootfs

    finish(rootfs.refresh(choice.lab()), choice)
