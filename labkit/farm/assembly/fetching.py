"""Debian packages with all that they depend on, from apt with folders of its own.

The machine's apt decides and checks signatures, but knows nothing of the machine here: neither what is
installed on it nor what its administrator prefers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labkit import run

#: What each system has, and not the package that merges /usr by a program: it is merged before.
WHOLE = ("?essential", "usrmerge-")
TIMEOUT = 900.0


def fetch(sources: str, packages: Sequence[str], work: Path, status: str = "") -> tuple[Path, ...]:
    """The files of the packages and of what they depend on, in ``work``, which is for this call alone.

    :param sources: lines of sources.list(5).
    :param status: dpkg's database of the system that has some of them already.
    """
    for name in ("lists/partial", "archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "sources.list").write_text(sources, encoding="utf-8")
    (work / "status").write_text(status, encoding="utf-8")
    (work / "apt.conf").write_text(configuration(work), encoding="utf-8")
    env = {"APT_CONFIG": str(work / "apt.conf")}
    print("downloading the lists of packages", flush=True)
    _apt(env, "update")
    print("downloading packages", flush=True)
    _apt(env, "install", "--download-only", "--no-install-recommends", *packages)
    return tuple(sorted((work / "archives").glob("*.deb")))


def configuration(work: Path) -> str:
    """apt.conf(5): nothing of the machine's but its keys and its proxy. Pure."""
    values = {
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::State::extended_states": work / "extended_states",
        "Dir::Cache": work,
        "Dir::Cache::archives": work / "archives",
        "Dir::Cache::pkgcache": work / "pkgcache.bin",
        "Dir::Cache::srcpkgcache": work / "srcpkgcache.bin",
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",  # the folders are root's alone
    }
    return "".join(f'{name} "{value}";\n' for name, value in values.items())


def _apt(env: dict[str, str], *words: str) -> None:
    run.run(["apt-get", "--yes", "--quiet", *words], env=env, timeout=TIMEOUT, quiet=True)
