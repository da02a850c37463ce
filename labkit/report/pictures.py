"""The pictures of a run: kept when its stage has passed, set aside beside the good ones when it failed.

While a stage runs its pictures are drafts (:func:`labkit.result.drafts`). They are copied and not
moved: who runs a failed cell again in JupyterLab and closes the stage again still has the others.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from labkit.files import write_atomically
from labkit.lab import Lab
from labkit.result import drafts

#: A picture's path in the JSON of a record, relative to the lab's outputs.
PICTURE = re.compile(r'"(figures/[a-z0-9][a-z0-9.-]*\.(?:png|svg))"')
#: Drafts of a run that was killed are removed after so many seconds.
OLD = 86_400.0


def named(text: str) -> frozenset[str]:
    """The pictures that a record names, in its figures and its results; ``text`` is its JSON."""
    return frozenset(PICTURE.findall(text))


def keep(lab: Lab, run: str, names: Collection[str]) -> None:
    """The run's pictures are in their places; those of an earlier run that it did not draw stay."""
    _copy(lab, run, {name: name for name in names})
    sweep(lab)


def set_aside(lab: Lab, run: str, names: Collection[str]) -> dict[str, str]:
    """The pictures of a failed run are beside the good ones, as ``figures/NAME.failed.png``; returns
    the new path of each one that there is."""
    aside = {name: failed(name) for name in names if _draft(lab, run, name).is_file()}
    _copy(lab, run, aside)
    sweep(lab)
    return aside


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


def remove(lab: Lab, names: Collection[str]) -> None:
    """These pictures are gone from the outputs."""
    for name in names:
        (lab.output_dir / name).unlink(missing_ok=True)


def discard(lab: Lab, run: str) -> None:
    """The run's drafts are gone."""
    shutil.rmtree(drafts(lab, run), ignore_errors=True)


def sweep(lab: Lab) -> None:
    """The drafts of runs that ended long ago are gone: nobody will close those any more."""
    for path in (lab.output_dir / "figures").glob(".*/"):
        if time.time() - path.stat().st_mtime > OLD:
            shutil.rmtree(path, ignore_errors=True)


def _draft(lab: Lab, run: str, name: str) -> Path:
    return drafts(lab, run) / name.removeprefix("figures/")


def _copy(lab: Lab, run: str, targets: Mapping[str, str]) -> None:
    for name, target in targets.items():
        source = _draft(lab, run, name)
        if source.is_file():
            write_atomically(lab.output_dir / target, source.read_bytes())
