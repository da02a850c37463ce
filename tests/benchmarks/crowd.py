"""Three publishers, three teachers, 300 remarks: what becomes of every line; run by hand, as root:

.venv/bin/python -m tests.benchmarks.crowd [--database mariadb] [--remarks 300]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

from labkit.wiki import server
from tests.conftest import lab_maker, open_place
from tests.crowd import Crowd, crowd


def measure(database: str, remarks: int) -> Crowd:
    """The counts on a wiki of the benchmark's own."""
    with (
        open_place() as folder,
        lab_maker(folder, folder / "outputs") as make,
        tempfile.TemporaryDirectory() as state,
    ):
        lab = make(wiki_database=database)
        server.up(lab)
        return crowd(lab, Path(state), page="Crowd", remarks=remarks)


def main() -> int:
    """Prints the counts; the exit status is 1 when a line is not as it has to be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "mariadb"), default="sqlite")
    parser.add_argument("--remarks", type=int, default=300)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    seen = measure(given.database, given.remarks)
    for name in (
        "remarks",
        "publications",
        "conflicts",
        "given_up",
        "revisions",
        "put_back",
        "seconds",
    ):
        print(f"{name:14} {getattr(seen, name):8.0f}")
    bad = ("lost", "doubled", "stale", "missing", "gone")
    for name in bad:
        print(f"{name:14} {len(getattr(seen, name)):8}")
    for error in seen.said:
        print(error)
    return int(any(getattr(seen, name) for name in bad))


if __name__ == "__main__":
    sys.exit(main())
