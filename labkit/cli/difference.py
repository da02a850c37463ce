"""What publishing would change, on a terminal: block by block, as a difference against the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.cli.command import Choice
from labkit.cli.command import show as show_record
from labkit.display import counted, shown

if TYPE_CHECKING:
    from rich.console import Console

    from labkit.core.result import Result
    from labkit.wiki.publish.editor import Plan
    from labkit.wiki.publish.publishing import Mended

#: The colour of a line of a difference, by its first character.
COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def tell_plan(result: Result[Plan], choice: Choice) -> None:
    """Tells what publishing would do: as JSON, or the difference of each block, the pictures that are
    missing, and a sentence."""
    if choice.as_json:
        show_record(result, choice)
        return
    out = _console()
    plan = result.value
    for change in plan.changes:
        if change.state == "unchanged":
            continue
        kept = f", {counted(len(change.kept), 'line')} of people's kept" if change.kept else ""
        hint = f" by a person (--restore {change.name})" if change.state == "deleted" else kept
        show(out, f"{change.name}: {change.state}{hint}", change.diff)
    if plan.listed:
        show(out, "the comment that lists the blocks", plan.listed)
    for name in plan.missing:
        show(out, f"picture to upload: {name}")
    out.print(shown(result.summary), style="bold", soft_wrap=True)


def tell_mending(result: Result[Mended], choice: Choice) -> None:
    """Tells what mending the page's comments would do: as JSON, or the difference and a sentence."""
    if choice.as_json:
        show_record(result, choice)
        return
    out = _console()
    if result.value.diff:
        show(out, result.value.page, result.value.diff)
    out.print(shown(result.summary), style="bold", soft_wrap=True)


def show(out: Console, heading: str, diff: str = "") -> None:
    """Prints a heading and a unified difference, in colour where the console has any."""
    out.print(shown(heading), style="bold", soft_wrap=True)
    for line in shown(diff).splitlines():
        out.print(line, style=COLOURS.get(line[:1], ""), soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)
