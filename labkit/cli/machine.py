"""Commands about the lab on this machine: plan, apply, watch, down, status, check, doctor, gc, refresh."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from labkit import report
from labkit.cli.command import Choice, command, finish, log_to_file, show
from labkit.display import shown
from labkit.farm import reconcile, rootfs

if TYPE_CHECKING:
    from labkit.farm.reconcile.upkeep import Mend

#: The exit status of `plan --exit-code` when something would change.
CHANGES = 3


@command
def plan(
    choice: Choice,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 when something would change.")
    ] = False,
) -> None:
    """Show what apply would change, and why; change nothing.

    What lab.toml says is compared with what is seen on the machine: the bridge and its links, images,
    containers, the name server, the balancer. What `rebuild` would do besides (a wiki that does not run,
    stages whose inputs have changed, a report that is not published) is a table of its own."""
    lab = choice.lab()
    from labkit.report.batch import rebuild

    result = reconcile.upkeep.plan(lab)
    tables = (*result.tables, *rebuild.foresight(lab))
    show(result.model_copy(update={"tables": tables}), choice)
    if exit_code and not result.value.empty:
        raise typer.Exit(CHANGES)


@command
def apply(choice: Choice) -> None:
    """Make the farm what lab.toml says, with the least that is needed.

    Only what differs is touched, and what depends on it; requests that run through the balancer
    meanwhile are answered. With nothing to do, nothing is done."""
    lab = choice.lab(log=True)
    finish(reconcile.upkeep.apply(lab), choice)


@command
def watch(
    choice: Choice,
    seconds: Annotated[
        float | None,
        typer.Option("--for", metavar="SECONDS", min=0, help="End after so long."),
    ] = None,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Pause between two looks.")
    ] = 1.0,
) -> None:
    """Keep the farm what lab.toml says, until stopped.

    It is looked at every second, and what differs is put right as apply does it; a line is printed for
    each mend. Ctrl-C or SIGTERM ends it after the mend that is under way, with exit status 0; so does
    labkit down. While a rebuild works on the lab nothing is mended."""
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
    over, signals = Event(), (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: object) -> None:
        over.set()
        restore()

    for number in signals:
        signal.signal(number, stop)
    try:
        yield over
    finally:
        restore()


@command
def down(choice: Choice) -> None:
    """Take down what labkit made on this machine.

    Containers, links, mounts, servers and namespaces of this lab; its outputs, and what its
    wiki holds, stay."""
    lab = choice.lab()
    if lab.state_dir.exists():  # else nothing was ever up, and nothing is left of having asked
        log_to_file(lab)
    finish(report.status.down(lab), choice)


@command
def status(choice: Choice) -> None:
    """What is up now, from observation."""
    show(report.status.status(choice.lab()), choice)


@command
def check(
    choice: Choice,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every file that the lab is built from.")
    ] = False,
) -> None:
    """Run the checks on what is up now.

    With --deep, packages, lists, root file systems, images and results in the cache, and what replicas stand on, are read
    whole and held against their hashes. The exit status is 1 when a check does not hold."""
    finish(report.status.checks(choice.lab(), deep=deep), choice)


@command
def doctor(choice: Choice) -> None:
    """Say what keeps this machine from running the lab.

    Each blocker comes with its remedy; the exit status is 1 when there is one."""
    from labkit import doctor as doctors

    finish(doctors.examine(choice.lab()), choice)


@command
def gc(
    choice: Choice,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would be removed; remove nothing.")
    ] = False,
) -> None:
    """Remove from the cache what no lab uses any more.

    Superseded root file systems and images, downloaded packages that none of them has, and what
    killed builds left. What a lab uses that is up, or was not taken down, stays."""
    finish(rootfs.collect(choice.lab(), dry=dry_run), choice)


@command
def refresh(choice: Choice) -> None:
    """Take the mirror's lists of packages anew.

    What has newer packages by then is built again by the next run that needs it; nothing else is."""
    finish(rootfs.refresh(choice.lab()), choice)
