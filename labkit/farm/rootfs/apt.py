"""Where Debian packages come from, and how: apt knows, and is asked (:mod:`labkit.farm.rootfs.lists`).

The repository names no mirror, and labkit reads neither proxies nor logins nor keys: apt fetches and verifies
with the machine's own configuration. Here is what labkit asks apt for, and what it makes of the answers.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from labkit.core import run
from labkit.errors import ConfigError, LabkitError, MachineError
from labkit.model.lab import Lab
from labkit.records import Record

#: What apt is asked to print of each list of packages that it has, with tabs between: a medium's name has blanks.
TARGET_FORMAT = "\t".join(
    f"$({name})"
    for name in (
        "CREATED_BY", "REPO_URI", "RELEASE", "CODENAME", "COMPONENT", "ARCHITECTURE", "FILENAME", "ORIGIN",
    )
)  # fmt: skip
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
    (
        re.compile(r"  (?P<what>40[13] .*)"),
        "machine.mirror-login",
        "asks for a login that apt does not have: it answers {what}",
        "apt keeps logins in /etc/apt/auth.conf.d: apt_auth.conf(5)",
    ),
    (
        re.compile(r"(?P<what>is expired .*?\))"),
        "machine.mirror-expired",
        "has an old list of packages: it {what}",
        "where that is meant, say `Check-Valid-Until: no` at apt's source (sources.list(5)); otherwise take "
        "another mirror",
    ),
    (
        re.compile(r"GPG error: \S+ \S+ \S+ (?P<what>.*)|(?P<unsigned>is not signed)"),
        "machine.mirror-signature",
        "is not trusted by apt: {what}{unsigned}",
        "give apt's source the mirror's key: Signed-By in sources.list(5)",
    ),
    (
        re.compile(r"Failed to fetch \S+ +(?P<what>.*)"),
        "machine.mirror",
        "does not answer: {what}",
        "check the network, or set rootfs.mirror to a mirror that this machine reaches",
    ),
    (
        re.compile(r"[EW]: (?P<what>.*)"),
        "machine.mirror",
        "is of no use to apt: {what}",
        "correct what apt's own words name",
    ),
)  # fmt: skip


class Source(Record):
    """One suite on one mirror: its list of packages (``packages``, a file of apt's in the archive's folder), the
    hash of what that says, and when the mirror made it (seconds since 1970)."""

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
    """What root file systems are made from.

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


@cache
def architecture() -> str:
    """The machine's architecture, as Debian names it."""
    return run.run(["dpkg", "--print-architecture"]).stdout.strip()


def os_release() -> dict[str, str]:
    """What the machine says of its own system."""
    try:
        return parse_os_release(Path("/etc/os-release").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


# -- pure ------------------------------------------------------------------------------------


def parse_os_release(text: str) -> dict[str, str]:
    """The assignments of an os-release file, their quotes undone."""
    pairs = (line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z_]+=", line))
    return {name: "".join(shlex.split(value)) for name, value in pairs}


def public(address: str) -> str:
    """An address without the login that may be in it."""
    return re.sub(r"//[^/@\s]+@", "//", address)


def configuration(values: Mapping[str, object], *, hooks: bool = True) -> str:
    """Values as a file of apt.conf(5); without ``hooks`` nothing is started before or after an update."""
    cleared = "" if hooks else "".join(f"#clear APT::Update::{name};\n" for name in HOOKS)
    return cleared + "".join(f'{name} "{value}";\n' for name, value in values.items())


def updating(dump: str) -> dict[str, str]:
    """How apt updates lists for labkit: packages and nothing else, whole files, in reasonable time.

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
