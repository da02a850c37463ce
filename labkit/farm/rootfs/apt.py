"""Asks apt for Debian's package lists: the suite, its mirrors, and why apt could not get them.

The repository names no mirror, and labkit reads neither proxies nor logins nor keys: ``apt-get update`` fetches and
verifies with the machine's configuration, in a folder that begins as a copy of the machine's lists. So what works for
the machine works here, and the machine's own lists stay as they are. Lists are kept in the cache until they are taken
anew.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

from labkit.core import cache, run
from labkit.core.files import text_of
from labkit.core.journal import lock
from labkit.errors import ConfigError, LabkitError, MachineError
from labkit.farm.rootfs.cache_entries import recorded, write_record
from labkit.model.lab import Lab
from labkit.records import Record

#: What apt is asked to print of each list of packages that it has, with tabs between: a medium's name has blanks.
TARGET_FORMAT = "$(CREATED_BY)\t$(REPO_URI)\t$(RELEASE)\t$(CODENAME)\t$(COMPONENT)\t$(ARCHITECTURE)\t$(FILENAME)\t$(ORIGIN)"
#: How long a mirror may be silent and how often it is asked again, unless the machine's configuration says so itself.
PATIENCE = {
    "Acquire::http::Timeout": "10",
    "Acquire::https::Timeout": "10",
    "Acquire::Retries": "1",
}
#: What apt is started with: it ends with labkit, however that ends.
ENDING = ("setpriv", "--pdeathsig=KILL", "--")
#: What the machine's apt starts before and after an update: not for labkit's lists.
HOOKS = ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success")
#: apt's program that fetches files by its methods.
HELPER = "/usr/lib/apt/apt-helper"
#: Why something was not fetched.
OFFLINE = "is not in the cache, and labkit is offline"
#: Has a file for each suite that debootstrap knows.
SCRIPTS = Path("/usr/share/debootstrap/scripts")
#: The names in a machine's sources that stand for its own suite, besides its codename.
ALIASES = ("stable", "oldstable", "testing", "unstable", "sid")
#: The fields of sources.list(5) and of its deb822 format that name suites, and what stands before.
ONE_LINE = re.compile(r"^([ \t]*deb(?:-src)?[ \t]+(?:\[[^\]]*\][ \t]+)?\S+[ \t]+)(\S+)", re.M)
STANZA = re.compile(r"^(Suites:)(.*(?:\n[ \t].*)*)", re.M | re.I)
#: The lines in which apt says what kept it from a list.
COMPLAINT = re.compile(r"E: |W: (?:Failed to fetch|GPG error|An error occurred)")
NAMED = re.compile(r"(?:fetch |Release file for |repository '|GPG error: )(\S+?)(?:/dists/| )")
#: How it says that a mirror does not have a suite; of one that need not be signed it asks for the list itself.
NO_RELEASE = re.compile(
    r"repository '(?P<mirror>\S+) \S+ Release' does not have a Release file"
    r"|Failed to fetch (?P<trusted>\S+)/dists/\S+/Packages  404 "
)
#: All that the errors of apt 3 say of a mirror that cannot be reached.
UNREACHED = re.compile(r"Unable to connect to \S+:")
#: How apt says why it did without a list; the error's code, its reason and its remedy.
REFUSALS = (
    (re.compile(r"  (?P<what>40[13] .*)"), "machine.mirror-login",
     "asks for a login that apt does not have: it answers {what}",
     "apt keeps logins in /etc/apt/auth.conf.d: apt_auth.conf(5)"),
    (re.compile(r"(?P<what>is expired .*?\))"), "machine.mirror-expired",
     "has an old list of packages: it {what}",
     "where that is meant, say `Check-Valid-Until: no` at apt's source (sources.list(5)); otherwise take another mirror"),
    (re.compile(r"GPG error: \S+ \S+ \S+ (?P<what>.*)|(?P<unsigned>is not signed)"), "machine.mirror-signature",
     "is not trusted by apt: {what}{unsigned}",
     "give apt's source the mirror's key: Signed-By in sources.list(5)"),
    (re.compile(r"Failed to fetch \S+ +(?P<what>.*)"), "machine.mirror",
     "does not answer: {what}",
     "check the network, or set rootfs.mirror to a mirror that this machine reaches"),
    (re.compile(r"[EW]: (?P<what>.*)"), "machine.mirror",
     "is of no use to apt: {what}",
     "correct what apt's own words name"),
)  # fmt: skip


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


class AbsentError(MachineError):
    """A file that is not in the cache and could not be fetched: ``status`` is the mirror's answer, 0
    when it gave none, and None when it was not asked (offline)."""

    code = "machine.mirror"

    def __init__(self, what: str, status: int | None, reason: str) -> None:
        self.status = status
        super().__init__(
            what,
            reason,
            "run it once without --offline, where the mirror can be reached"
            if status is None
            else "check the network; after an update of the archive: labkit refresh",
            "apt-get update",
            code="machine.offline" if status is None else self.code,
        )


class Source(Record):
    """One suite on one mirror: ``packages`` is its list (a file in the archive's folder), ``digest`` the list's hash,
    ``date`` when the mirror made it (seconds since 1970)."""

    mirror: str
    suite: str
    packages: str = ""
    digest: str = ""
    date: int = 0

    @property
    def line(self) -> str:
        """The same as a line of sources.list(5), without a login."""
        return f"deb {public(self.mirror)} {self.suite} main"


class Archive(Record):
    """The mirrors and package lists that root file systems are made from.

    ``main`` is the suite itself, ``further`` its updates and security fixes as the machine has them, ``folder``
    what apt has of them. ``kind`` says whose choice the mirror is, without naming it.
    """

    main: Source
    further: tuple[Source, ...] = ()
    kind: str
    folder: Path = Path()

    @property
    def sources(self) -> tuple[Source, ...]:
        """All of them."""
        return (self.main, *self.further)


def suite(lab: Lab) -> str:
    """The lab's suite; the machine's own when the lab names none."""
    found = lab.rootfs.suite or codename()
    if not found:
        reason = "this machine's os-release names no suite"
        raise ConfigError("rootfs.suite", reason, "set rootfs.suite", code="config.no-suite")
    return found


def codename() -> str:
    """The machine's own suite, '' when its os-release names none."""
    return os_release().get("VERSION_CODENAME", "")


def kind(lab: Lab) -> str:
    """Whose choice the mirror is, without naming it."""
    return "the lab's own mirror" if lab.rootfs.mirror else "the machine's mirror"


@functools.cache
def architecture() -> str:
    """The machine's architecture, as Debian names it."""
    return run.run(["dpkg", "--print-architecture"]).stdout.strip()


def os_release() -> dict[str, str]:
    """The machine's os-release file; empty where it has none."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def public(address: str) -> str:
    """An address without the login that may be in it."""
    return re.sub(r"//[^/@\s]+@", "//", address)


def configuration(values: Mapping[str, object], *, hooks: bool = True) -> str:
    """Values as a file of conf(5); without ``hooks`` nothing is started before or after an update."""
    cleared = "" if hooks else "".join(f"#clear APT::Update::{name};\n" for name in HOOKS)
    return cleared + "".join(f'{name} "{value}";\n' for name, value in values.items())


def updating(dump: str) -> dict[str, str]:
    """Returns apt's settings for an update: packages only, whole files, in reasonable time.

    :param dump: what ``apt-config dump`` says: what the machine has set itself stays.
    """
    targets = re.findall(r"^Acquire::IndexTargets::(deb(?:-src)?::[^: ]+) ", dump, re.M)
    return {
        **{name: value for name, value in PATIENCE.items() if f"\n{name} " not in f"\n{dump}"},
        **{
            f"Acquire::IndexTargets::{target}::DefaultEnabled": "false"
            for target in targets
            if target != "deb::Packages"
        },
        "Acquire::PDiffs": "false",
    }


def for_suite(text: str, own: str, suite: str) -> str:
    """The text of one of apt's sources, in either format, with ``suite`` where it names the machine's ``own``.

    Options, keys and components stay what they are.
    """
    names = "|".join(re.escape(name) for name in (own, *ALIASES) if name)
    named = re.compile(rf"(?<![\w.-])(?:{names})(?=[-/\s]|$)")

    def put(match: re.Match[str]) -> str:
        return match[1] + named.sub(suite, match[2])

    return STANZA.sub(put, ONE_LINE.sub(put, text))


def parse_targets(
    text: str, architecture: str, distribution: str = "debian"
) -> tuple[tuple[Source, str], ...]:
    """The sources of ``apt-get indextargets``' output (:data:`TARGET_FORMAT`) that have packages of the component
    ``main``, each with its release's codename; when some are known to be of the distribution itself, those alone."""
    found: list[tuple[Source, str, bool]] = []
    for line in text.splitlines():
        words = line.split("\t")
        if len(words) != 8 or (words[0], words[4], words[5]) != ("Packages", "main", architecture):
            continue
        source = Source(mirror=words[1].rstrip("/"), suite=words[2], packages=words[6])
        found.append((source, words[3], words[7].lower() == distribution))
    own_known = any(own for _, _, own in found)
    return tuple((source, name) for source, name, own in found if own or not own_known)


def choose(
    targets: Sequence[tuple[Source, str]], suite: str
) -> tuple[Source | None, tuple[Source, ...]]:
    """The suite's own source, or None, and the sources of its updates and security fixes."""
    named = [source for source, name in targets if suite in (source.suite, name)]
    main = next((source for source in named if "-" not in source.suite), None)
    wanted = re.compile(rf"{re.escape(suite)}-(updates|security)")
    further = tuple(s for s, name in targets if wanted.fullmatch(name) or wanted.fullmatch(s.suite))
    return main, further


def errors(done: run.Done) -> str:
    """apt's errors; why a mirror cannot be reached is put into them from its progress, where alone apt 3 says it."""

    def reason(match: re.Match[str]) -> str:
        found = re.search(rf"^ +(\S.*)\n +{re.escape(match[0])}", done.stdout, re.M)
        return found[1] if found else match[0]

    return UNREACHED.sub(reason, done.stderr)


def complaint(said: str, suite: str, main: Source | None) -> str:
    """The first line in which apt says that it could not get the suite, its updates or its fixes; '' without one.

    A mirror need not have updates and fixes. ``main`` is the suite's source if apt has its list, perhaps an older
    one: then complaints about other mirrors do not count.
    """
    names = "|".join(re.escape(name) for name in {suite, main.suite if main else suite})
    listed = main is None or "mirror" in main.mirror.partition(":")[0]
    mirror = public(main.mirror) if main and not listed else ""
    lines = [public(line) for line in said.splitlines() if COMPLAINT.match(line)]
    lines.sort(key=lambda line: "Failed to fetch" not in line)  # first the cause of the others
    for line in lines:
        if re.search(r"[/ ']\S+-(updates|security)[/ ]", line):
            if not NO_RELEASE.search(line):
                return line
        elif re.search(rf"[/ ]({names})[/ ]", line) and mirror in line:
            return line
    return lines[0] if lines and not main else ""


def refusal(line: str, kind: str, again: str) -> LabkitError:
    """The error for a complaint of apt's, which names the mirror; ``kind`` says whose choice that is."""
    named = NAMED.search(line)
    value = f"the mirror {public(named[1])}" if named else kind
    matches = ((match, row) for row in REFUSALS if (match := row[0].search(line)))
    found, (_, code, reason, remedy) = next(matches)
    words = {name: text or "" for name, text in found.groupdict().items()}
    return MachineError(value, reason.format(**words), remedy, again, code=code)


def find_lists(lab: Lab) -> Archive | None:
    """Returns the lab's archive from the cache; None when its lists were not taken yet, or are damaged."""
    place = _place(lab)
    return recorded(place, Archive, folder=place)


def ensure_lists(lab: Lab) -> Archive:
    """The lab's archive; its lists are taken if they are not in the cache. Raises what :func:`fetch_lists` raises, and
    :class:`AbsentError` offline."""
    found = find_lists(lab)
    if found is None:
        if lab.offline:
            raise AbsentError(f"the list of packages of {suite(lab)}", None, OFFLINE)
        return update_lists(lab)
    return found


def update_lists(lab: Lab) -> Archive:
    """Fetches the mirror's newest lists; if that fails the old ones stay. Raises what :func:`fetch_lists` raises."""
    place = _place(lab)
    with lock(lab.cache_dir / "locks", place.name, wait=TIMEOUT):
        part, old = (place.with_name(f".{place.name}{end}") for end in (".part", ".old.part"))
        for left in (part, old):  # by a killed call
            shutil.rmtree(left, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            archive = fetch_lists(lab, part, seed=_kept(place))
            write_record(part, archive)
            cache.seal(part)
            with suppress(FileNotFoundError):
                place.rename(old)
            part.rename(place)
        finally:
            for left in (part, old):
                shutil.rmtree(left, ignore_errors=True)
    return archive.model_copy(update={"folder": place})


def try_update(lab: Lab) -> Archive:
    """The archive as the mirror has it now, asked as a build would; nothing of it is kept. Raises what :func:`fetch_lists`
    raises."""
    with tempfile.TemporaryDirectory(prefix="labkit-lists-") as folder:
        return fetch_lists(lab, Path(folder), seed=_kept(_place(lab)))


def fetch_lists(lab: Lab, folder: Path, *, seed: Path) -> Archive:
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
    settings.write_text(configuration(values | updating(dump), hooks=False), encoding="utf-8")
    get = [*ENDING, "apt-get", f"--config-file={settings}"]
    done = run.run(
        [*get, "--option=pkgCacheFile::Generate=false", "update"],
        ok=range(256),
        timeout=TIMEOUT,
        quiet=True,
    )
    targets = run.run([*get, "indextargets", "--format", TARGET_FORMAT], quiet=True).stdout
    wanted = suite(lab)
    main, further = choose(parse_targets(targets, architecture()), wanted)
    line = complaint(errors(done), wanted, main)
    if line or main is None:
        raise _refused(lab, line, folder)
    return Archive(
        main=_read(main, folder).model_copy(update={"suite": wanted}),
        further=tuple(_read(source, folder) for source in further),
        kind=kind(lab),
        folder=folder,
    )


def list_text(archive: Archive, source: Source) -> str:
    """A source's list of packages (deb-control(5)), whatever apt has compressed it with."""
    return _text(archive.folder / source.packages)


def _place(lab: Lab) -> Path:
    """Where the lists of a lab are kept: a folder for each suite and each set of sources."""
    own = [lab.rootfs.mirror] if lab.rootfs.mirror else [text for _, text in _machine()]
    key = hashlib.sha256(repr((suite(lab), own)).encode()).hexdigest()[:12]
    return lab.cache_dir / "lists" / f"lists-{suite(lab)}-{key}"


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
    own, wanted = codename(), suite(lab)
    if not lab.rootfs.mirror and wanted == own:
        return {}
    parts = folder / "sources"
    parts.mkdir()
    if lab.rootfs.mirror:
        (parts / "lab.list").write_text(_own_mirror(lab.rootfs.mirror, wanted), encoding="utf-8")
    for name, text in _machine() if not lab.rootfs.mirror else ():
        (parts / name).write_text(for_suite(text, own, wanted), encoding="utf-8")
    return {"Dir::Etc::sourcelist": Path("/dev/null"), "Dir::Etc::sourceparts": parts}


def _own_mirror(mirror: str, suite: str) -> str:
    """The lab's own mirror as a line of sources.list(5); trusted are the distribution's keys and those of apt."""
    keys = Path(f"/usr/share/keyrings/{os_release().get('ID', 'debian')}-archive-keyring.gpg")
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
    wanted, chosen = suite(lab), kind(lab)
    if not line:
        return ConfigError(
            "rootfs.mirror",
            f"this machine's apt has no source of Debian's packages for {wanted}",
            "set rootfs.mirror to the address of a mirror, or give apt one: sources.list(5)",
            AGAIN,
            code="config.no-mirror",
        )
    if found := NO_RELEASE.search(line):
        return _unknown(wanted, chosen, found["mirror"] or found["trusted"], folder)
    return refusal(line, chosen, AGAIN)


def _unknown(suite: str, kind: str, mirror: str, folder: Path) -> ConfigError:
    """The error for a suite that a mirror does not have: it names those near to it that the mirror has, and says of
    one that debootstrap knows that the mirror carries it no longer."""
    known = sorted(path.name for path in SCRIPTS.glob("*") if "." not in path.name)
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
    words = (f"{mirror}/dists/{suite}/Release", f"{folder}/{suite}")
    get = [HELPER, f"--config-file={folder}/apt.conf", "download-file", *words]
    return run.run(get, ok=(0, 100), timeout=TIMEOUT, quiet=True).status == 0
