"""The pictures of a run: kept when its stage has passed, set aside beside the good ones when it failed.

While a stage runs its pictures are drafts (:func:`labkit.core.result.drafts`). They are copied and not
moved: who runs a failed cell again in JupyterLab and closes the stage again still has the others.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Collection, Mapping

from labkit.core.result import drafts
from labkit.model.lab import Lab

#: A picture's path in the JSON of a record, relative to the lab's outputs.
PICTURE = re.compile(r'"(figures/[a-z0-9][a-z0-9.-]*\.(?:png|svg))"')
#: Drafts of a run that was killed are removed after so many seconds.
OLD = 86_400.0


def named(text: str) -> frozenset[str]:
    """The pictures that a record names, in its figures and its results; ``text`` is its JSON."""
    return frozenset(PICTURE.findall(text))


def drawn(lab: Lab, run: str, names: Collection[str]) -> dict[str, bytes | None]:
    """What the run drew of these pictures; None for one that it did not draw, of which an earlier run's stays."""
    drafts_of = {name: drafts(lab, run) / name.removeprefix("figures/") for name in names}
    return {name: path.read_bytes() if path.is_file() else None for name, path in drafts_of.items()}


def failed(name: str) -> str:
    """What a picture of a failed run is called."""
    stem, _, ending = name.rpartition(".")
    return f"{stem}.failed.{ending}"


def is_failed(name: str) -> bool:
    """Whether a picture is one of a failed run."""
    return ".failed." in name


def renamed(text: str, paths: Mapping[str, str]) -> str:
    """The JSON of a record with other paths of its pictures."""
    return PICTURE.sub(lambda found: f'"{paths.get(found[1], found[1])}"', text)


def discard(lab: Lab, run: str) -> None:
    """The run's drafts are gone."""
    shutil.rmtree(drafts(lab, run), ignore_errors=True)


def sweep(lab: Lab) -> None:
    """The drafts of runs that ended long ago are gone: nobody will close those any more."""
    for path in (lab.output_dir / "figures").glob(".*/"):
        if time.time() - path.stat().st_mtime > OLD:
            shutil.rmtree(path, ignore_errors=True)
