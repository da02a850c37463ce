"""Each suite of Debian built, booted and asked everything that a farm needs; by hand, as root:

    .venv/bin/python -m tests.benchmarks.suites [VARIANT...]

One line for each suite and variant (default: essential, mmdebstrap, minbase): what was built, and which questions of
:func:`labkit.farm.study.probe` it did not answer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from labkit import Lab
from labkit.errors import LabkitError
from labkit.farm import study
from labkit.farm.images import layout as image
from tests.conftest import lab_maker, open_place

#: The last is one that Debian's mirrors have given up: it is to be refused in words.
SUITES = ("bookworm", "trixie", "bullseye", "stretch")


def line(make: Callable[..., Lab], suite: str, variant: str) -> str:
    """What became of a suite."""
    started = time.monotonic()
    tool = "debootstrap" if variant == "minbase" else "mmdebstrap"
    try:
        lab = make(suite=suite, variant=variant, tool=tool)
        built = image.build(lab)
        spent = time.monotonic() - started
        probes = study.probe(lab, "web")
    except LabkitError as error:
        return f"{time.monotonic() - started:6.1f} s  {error}"
    lost = [f"{item.name} ({item.seen})" for item in probes if not item.holds]
    packages = built.table("inputs").rows[2][1]
    said = f"{len(probes) - len(lost)} of {len(probes)} answered"
    return f"{spent:6.1f} s  packages {packages}; {said}{'; not ' if lost else ''}{'; '.join(lost)}"


def main() -> None:
    """The matrix."""
    for variant in sys.argv[1:] or ("essential", "mmdebstrap", "minbase"):
        for suite in SUITES:
            with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
                print(f"{suite:9} {variant:11} {line(make, suite, variant)}", flush=True)


if __name__ == "__main__":
    main()
