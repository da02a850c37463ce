"""Commands about what stands on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from labkit.cli.front import command
from labkit.report.command import Choice, finish, log_to_file, show

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
    containers, the name server, the balancer. The wiki is none of it."""
    lab = choice.lab()
    from labkit.farm import upkeep

    result = upkeep.plan(lab)
    show(result, choice)
    if exit_code and not result.value.empty:
        raise typer.Exit(CHANGES)


@command
def apply(choice: Choice) -> None:
    """Make the farm what lab.toml says, with the least that is needed.

    Only what differs is touched, and what depends on it; requests that run through the balancer
    meanwhile are answered. With nothing to do, nothing is done."""
    lab = choice.lab()
    log_to_file(lab)
    from labkit.farm import upkeep

    finish(upkeep.apply(lab), choice)


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
def doctor(choice: Choice) -> None:
    """Say what keeps this machine from running the lab.

    Each blocker comes with its remedy; the exit status is 1 when there is one."""
    from labkit import doctor as doctors

    finish(doctors.examine(choice.lab()), choice)
