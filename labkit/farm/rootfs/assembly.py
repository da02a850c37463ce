"""The program that makes a root file system: ``python -m labkit.farm.rootfs.assembly --help``.

It is a program of its own so that it is sealed off and ends with labkit, as debootstrap does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from labkit.farm.rootfs import apt, configuring, finishing, unpacking
from labkit.farm.rootfs.selection import Selection


def main() -> None:
    """Makes the target, an empty or missing folder."""
    given = parser().parse_args()
    sources, root = given.sources.read_text(encoding="utf-8"), given.target
    chosen = Selection(tuple(given.leave_out), tuple(given.keep))
    files = unpacking.files(given.packages)
    print(f"extracting {len(files)} packages", flush=True)
    architecture = apt.architecture()
    root.mkdir(exist_ok=True)
    root.chmod(0o755)
    found = unpacking.unpack(files, root, chosen)
    epoch = max(item.newest for item in found)
    finishing.note(
        root,
        sources,
        chosen.configuration,
        finishing.automatic(found, given.include.split(","), architecture),
    )
    configuring.configure(root, found, architecture, epoch)
    finishing.finish(root, given.module)


def parser() -> argparse.ArgumentParser:
    """The program's arguments; :func:`labkit.farm.rootfs.commands.steps` gives them."""
    made = argparse.ArgumentParser(prog="labkit.farm.rootfs.assembly", description=__doc__)
    made.add_argument("--sources", type=Path, required=True, help="the new /etc/apt/sources.list")
    made.add_argument("--packages", type=Path, required=True, help="names their files, one a line")
    made.add_argument("--include", required=True, help="packages that are asked for")
    made.add_argument("--leave-out", action="append", default=[], help="paths (dpkg(1))")
    made.add_argument("--keep", action="append", default=[], help="paths that stay nevertheless")
    made.add_argument("--module", action="append", default=[], help="of apache2, to turn on")
    made.add_argument("target", type=Path)
    return made


if __name__ == "__main__":
    main()
