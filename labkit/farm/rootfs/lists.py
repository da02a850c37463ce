"""A suite's lists of packages, as apt has them: fetched and verified by apt, with the machine's configuration.

``apt-get update`` does it, in a folder of labkit's own that begins as a copy of the machine's lists. So whatever works
for the machine works here: its mirrors of any method, proxies, logins, certificates, keys and options; and the
machine's own lists stay as they are. Lists are kept in the cache, whole or not at all, until they are taken anew.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

from labkit.core import cache, run
from labkit.core.files import text_of, write_atomically
from labkit.core.journal import lock
from labkit.errors import ConfigError, LabkitError
from labkit.farm.rootfs import apt
from labkit.farm.rootfs.apt import Archive, Source
from labkit.farm.rootfs.repository import HELPER, OFFLINE, AbsentError
from labkit.model.lab import Lab

#: How long an update may take (seconds).
TIMEOUT = 900.0
#: The files of apt's lists that are there for a moment, or for apt alone.
UNUSED = shutil.ignore_patterns("lock", "partial", "auxfiles")
AGAIN = "apt-get update"
#: What to do about a suite that a mirror lacks: one that debootstrap knows, and any other.
ENDED = (
    "leave rootfs.suite empty for the machine's own; Debian moves suites that have ended to another archive, "
    "whose address rootfs.mirror takes"
)
UNKNOWN = "leave rootfs.suite empty for the machine's own, or correct rootfs.mirror"


def find(lab: Lab) -> Archive | None:
    """The lab's archive as it is in the cache; None when its lists were not taken yet, or are damaged."""
    place = _place(lab)
    if not cache.whole(place):
        return None
    try:
        found = Archive.model_validate_json(text_of(place / "archive.json") or "")
    except ValueError:  # removed since
        return None
    return found.model_copy(update={"folder": place})


def ensure(lab: Lab) -> Archive:
    """The lab's archive; its lists are taken if they are not in the cache. Raises what :func:`ask` raises, and
    :class:`AbsentError` offline."""
    found = find(lab)
    if found is None:
        if lab.offline:
            raise AbsentError(f"the list of packages of {apt.suite(lab)}", None, OFFLINE)
        return take(lab)
    return found


def take(lab: Lab) -> Archive:
    """Fetches the mirror's newest lists; if that fails the old ones stay. Raises what :func:`ask` raises."""
    place = _place(lab)
    with lock(lab.cache_dir / "locks", place.name, wait=TIMEOUT):
        part, old = (place.with_name(f".{place.name}{end}") for end in (".part", ".old.part"))
        for left in (part, old):  # by a killed call
            shutil.rmtree(left, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            archive = ask(lab, part, seed=_kept(place))
            write_atomically(part / "archive.json", archive.model_dump_json(indent=1))
            cache.seal(part)
            with suppress(FileNotFoundError):
                place.rename(old)
            part.rename(place)
        finally:
            for left in (part, old):
                shutil.rmtree(left, ignore_errors=True)
    return archive.model_copy(update={"folder": place})


def require(lab: Lab) -> Archive:
    """The archive as the mirror has it now, asked as a build would; nothing of it is kept. Raises what :func:`ask`
    raises."""
    with tempfile.TemporaryDirectory(prefix="labkit-lists-") as folder:
        return ask(lab, Path(folder), seed=_kept(_place(lab)))


def ask(lab: Lab, folder: Path, *, seed: Path) -> Archive:
    """apt's lists of the lab's suite are in ``folder``, which is empty before.

    :param seed: lists of an earlier call; without them the machine's are taken.
    :raises ConfigError: the mirror has no such suite, or the machine's apt names no mirror of Debian.
    :raises MachineError: apt could not get the lists: the mirror is silent, wants a login, has old lists, ….
    """
    _seed(_directory("Dir::State::lists") if not seed.is_dir() else seed, folder / "lists")
    values = {
        "Dir::State::lists": folder / "lists",
        "APT::Sandbox::User": "root",  # the folder is root's alone
        **_sources(lab, folder),
    }
    settings = folder / "apt.conf"
    dump = run.run(["apt-config", "dump"], quiet=True).stdout
    settings.write_text(
        apt.configuration(values | apt.updating(dump), hooks=False), encoding="utf-8"
    )
    get = [*apt.ENDING, "apt-get", f"--config-file={settings}"]
    done = run.run(
        [*get, "--option=pkgCacheFile::Generate=false", "update"],
        ok=range(256),
        timeout=TIMEOUT,
        quiet=True,
    )
    targets = run.run([*get, "indextargets", "--format", apt.TARGET_FORMAT], quiet=True).stdout
    wanted = apt.suite(lab)
    main, further = apt.choose(apt.parse_targets(targets, apt.architecture()), wanted)
    line = apt.complaint(apt.errors(done), wanted, main)
    if line or main is None:
        raise _refused(lab, line, folder)
    return Archive(
        main=_read(main, folder).model_copy(update={"suite": wanted}),
        further=tuple(_read(source, folder) for source in further),
        kind=apt.kind(lab),
        folder=folder,
    )


def text(archive: Archive, source: Source) -> str:
    """A source's list of packages (deb-control(5)), whatever apt has compressed it with."""
    return _text(archive.folder / source.packages)


# -- in parts --------------------------------------------------------------------------------


def _place(lab: Lab) -> Path:
    """Where the lists of a lab are kept: a folder for each suite and each set of sources."""
    own = [lab.rootfs.mirror] if lab.rootfs.mirror else [text for _, text in _machine()]
    key = hashlib.sha256(repr((apt.suite(lab), own)).encode()).hexdigest()[:12]
    return lab.cache_dir / "lists" / f"lists-{apt.suite(lab)}-{key}"


def _kept(place: Path) -> Path:
    """The lists that lie at a place; where they are damaged a folder that is not there, for apt would go on
    with them."""
    return place / ("lists" if cache.whole(place) else "none")


def _machine() -> Iterator[tuple[str, str]]:
    """The files of the machine's apt that name sources, and their texts."""
    parts = _directory("Dir::Etc::sourceparts")
    files = sorted(path for end in ("list", "sources") for path in parts.glob(f"*.{end}"))
    for path in (_directory("Dir::Etc::sourcelist"), *files):
        if text := text_of(path):
            yield path.name, text


@functools.cache
def _directory(name: str) -> Path:
    """A path of apt's configuration, ``Dir::…``."""
    said = run.run(["apt-config", "shell", "place", f"{name}/f"], quiet=True).stdout
    return Path(said.strip().removeprefix("place=").strip("'"))


def _sources(lab: Lab, folder: Path) -> dict[str, Path]:
    """Where apt is to find its sources: for the machine's own suite in the machine's configuration, otherwise in
    files that are written here."""
    own, wanted = apt.codename(), apt.suite(lab)
    if not lab.rootfs.mirror and wanted == own:
        return {}
    parts = folder / "sources"
    parts.mkdir()
    if lab.rootfs.mirror:
        (parts / "lab.list").write_text(_own_mirror(lab.rootfs.mirror, wanted), encoding="utf-8")
    for name, text in _machine() if not lab.rootfs.mirror else ():
        (parts / name).write_text(apt.for_suite(text, own, wanted), encoding="utf-8")
    return {"Dir::Etc::sourcelist": Path("/dev/null"), "Dir::Etc::sourceparts": parts}


def _own_mirror(mirror: str, suite: str) -> str:
    """The lab's own mirror as a line of sources.list(5); trusted are the distribution's keys and those of apt."""
    keys = Path(f"/usr/share/keyrings/{apt.os_release().get('ID', 'debian')}-archive-keyring.gpg")
    trusted = _directory("Dir::Etc::trustedparts")
    found = [str(path) for path in (keys, *sorted(trusted.glob("*"))) if path.is_file()]
    options = f"[signed-by={','.join(found)}] " if found else ""
    return f"deb {options}{mirror} {suite} main\n"


def _seed(lists: Path, folder: Path) -> None:
    """``folder`` begins as a copy of other lists, as far as they can be read: what the mirror has not changed since
    is not fetched, and the lists of a medium (a DVD) are nowhere else."""
    with suppress(OSError, shutil.Error):
        shutil.copytree(lists, folder, ignore=UNUSED)
    (folder / "partial").mkdir(parents=True)


def _text(path: Path) -> str:
    return run.run([HELPER, "cat-file", path], quiet=True).stdout


def _read(source: Source, folder: Path) -> Source:
    """The source with what its list and its Release file say."""
    listed = Path(source.packages)
    said = _text(listed)
    stem = listed.name.partition("_main_binary-")[0]
    files = (listed.with_name(f"{stem}_{end}") for end in ("InRelease", "Release"))
    release = next(filter(None, map(text_of, files)), "")
    date = next((line for line in release.splitlines() if line.startswith("Date: ")), "")
    return source.model_copy(
        update={
            "packages": f"lists/{listed.name}",
            "digest": hashlib.sha256(said.encode()).hexdigest(),
            "date": int(parsedate_to_datetime(date[6:]).timestamp()) if date else 0,
        }
    )


def _refused(lab: Lab, line: str, folder: Path) -> LabkitError:
    """The error for what apt complained of, '' for sources that it does not have at all."""
    wanted, kind = apt.suite(lab), apt.kind(lab)
    if not line:
        return ConfigError(
            "rootfs.mirror",
            f"this machine's apt has no source of Debian's packages for {wanted}",
            "set rootfs.mirror to the address of a mirror, or give apt one: sources.list(5)",
            AGAIN,
            code="config.no-mirror",
        )
    if found := apt.NO_RELEASE.search(line):
        return _unknown(wanted, kind, found["mirror"] or found["trusted"], folder)
    return apt.refusal(line, kind, AGAIN)


def _unknown(suite: str, kind: str, mirror: str, folder: Path) -> ConfigError:
    """The error for a suite that a mirror does not have: it names those near to it that the mirror has, and says of
    one that debootstrap knows that the mirror carries it no longer."""
    known = sorted(path.name for path in apt.SCRIPTS.glob("*") if "." not in path.name)
    if suite in known:
        reason, remedy = f"{kind} does not carry this suite, or no longer", ENDED
    else:
        near = difflib.get_close_matches(suite, known, 3, 0.5)
        found = [name for name in near if _has(mirror, name, folder)]
        reason = f"{kind} has no such suite"
        remedy = f"it has {', '.join(found)}" if found else UNKNOWN
    return ConfigError(
        f"rootfs.suite = {suite!r}", reason, remedy, AGAIN, code="config.unknown-suite"
    )


def _has(mirror: str, suite: str, folder: Path) -> bool:
    address = f"{mirror}/dists/{suite}/Release"
    words = [
        HELPER,
        f"--config-file={folder}/apt.conf",
        "download-file",
        address,
        f"{folder}/{suite}",
    ]
    return run.run(words, ok=(0, 100), timeout=TIMEOUT, quiet=True).status == 0
