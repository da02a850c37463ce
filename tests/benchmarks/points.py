"""What the benchmarks that try point after point are asked on the command line, and where they run."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from labkit.core import run
from labkit.kernel.links import Netlink
from tests.own_machine import python_on_it

T = TypeVar("T")


def parser(description: str | None, works: Sequence[str]) -> argparse.ArgumentParser:
    """Takes the works, which of their points (:func:`chosen`), and how much is done and told at each."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    found.add_argument("works", nargs="*", choices=[*works, []])
    found.add_argument("--every", type=int, default=1)
    found.add_argument("--start", type=int, default=1)
    found.add_argument("--sample", type=int, default=0)
    found.add_argument("--seed", type=int, default=1)
    found.add_argument("--both", action="store_true")
    found.add_argument("--verbose", action="store_true")
    found.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return found


def chosen(points: Sequence[T], given: argparse.Namespace) -> list[T]:
    """Every ``--every``-th from number ``--start`` (the first is 1) on; of these, ``--sample`` at random."""
    found = list(points[given.start - 1 :: given.every])
    if not given.sample:
        return found
    pick = random.Random(given.seed)  # noqa: S311 - no secret
    return [found[n] for n in sorted(pick.sample(range(len(found)), min(given.sample, len(found))))]


def measured(
    module: str,
    given: argparse.Namespace,
    measure: Callable[[argparse.Namespace], int],
    last: Callable[[], object],
) -> None:
    """Ends with status 1 when ``measure`` returns that any failed; it, and then ``last``, are called on a
    machine of its own."""
    if not given.here:
        run.replace(python_on_it(module, "--here", *sys.argv[1:]))
    Netlink()  # imports pyroute2, which the processes of their own need not import again
    try:
        failed = measure(given)
    finally:
        last()
    sys.exit(bool(failed))
