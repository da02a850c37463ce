"""Commands about what stands on this machine."""

from __future__ import annotations

from labkit.cli.front import command
from labkit.report.command import Choice, finish, log_to_file, show


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
