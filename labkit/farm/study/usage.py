"""The packages of a root file system that a web server's container uses, and those that it does without.

No package's name is listed here. Needed are the packages of which a replica, doing its job, opens a file, and
those that these and the servers' own packages depend on. The job is done once while the kernel reports which
files are opened, and then again without the other packages, all together and one by one, in throw-away containers
on the farm's image. The evidence is kept beside the unpacked image; the same image is probed once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import Literal

import pandas

from labkit.checks import Check
from labkit.core import run
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Cell, Table
from labkit.display import counted, human_bytes
from labkit.errors import FarmError, LabkitError
from labkit.farm import images, rootfs
from labkit.farm.containers import container
from labkit.farm.images import builder
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.rootfs import packages, variants
from labkit.farm.rootfs.buildplan import key_of
from labkit.farm.rootfs.contents import Contents
from labkit.farm.rootfs.packages import Package
from labkit.farm.services import fetch
from labkit.farm.study import probes
from labkit.farm.study.evidence import collected
from labkit.farm.study.opened_files import watching
from labkit.farm.study.probe_containers import Container, Setup, prepared
from labkit.farm.study.sizes import Asked, asked, file_frame, reasons, sums
from labkit.model import sites
from labkit.model.lab import Lab
from labkit.records import Record

log = logging.getLogger("labkit.removal")

Use = Literal["opened", "idle", "unneeded"]

#: Goes up with every change of the probes.
EDITION = 1
#: How many packages are left out one by one: the heaviest.
SINGLE = 10
#: The programs that a replica is for, as its first process and the ssh session start them: of the ssh servers
#: the one that is there.
PROGRAMS = (f"/usr/sbin/{builder.COMMAND[0]}", "/usr/sbin/sshd", "/usr/sbin/dropbear")
#: Files of a package go with it; what its scripts made stays, as dpkg leaves it.
GOING = ("package", "alternative")
#: What each use means, as a table says it.
MEANING: Mapping[Use, str] = {
    "unneeded": "neither opened nor depended on",
    "idle": "depended on, but never opened",
    "opened": "opened by a running replica",
}
#: What the table says of a package that the farm's image does not have.
ABSENT = "not in the farm's image, which answers"
#: A part of the job that was done, and one that was not asked for.
FINE = "answers"
UNTRIED = "not tried"


class Served(Record):
    """How a replica's job went: :data:`FINE`, what went wrong, or :data:`UNTRIED` for each part; and the files
    that were opened, if they were watched."""

    web: str
    reload: str
    ssh: str
    opened: tuple[str, ...] = ()

    @property
    def fine(self) -> bool:
        """Whether every part of the job was done."""
        return {self.web, self.reload, self.ssh} == {FINE}

    @property
    def told(self) -> str:
        """How it went, in words."""
        if self.fine:
            return "apache2 and ssh answer"
        parts = {"apache2": self.web, "after a reload": self.reload, "ssh": self.ssh}
        return "; ".join(f"{name}: {said}" for name, said in parts.items() if said != FINE)


class Omission(Record):
    """Packages left out, the files and bytes that this was, and how the job went without them."""

    packages: tuple[str, ...]
    files: int
    size: int
    served: Served


class Evidence(Record):
    """What the farm's image needs.

    ``whole`` is the job done on all of it, with the files that were opened; ``opened`` the packages that those
    belong to; ``needed`` these, those of :data:`PROGRAMS`, and what Debian's dependencies say that all of them
    need; ``idle`` the needed ones of which no file was opened; ``spare`` those that are neither. ``size`` is the
    image's, ``opened_size`` that of the opened files (bytes).
    """

    size: int
    opened_size: int
    whole: Served
    opened: tuple[str, ...]
    needed: tuple[str, ...]
    idle: tuple[str, ...]
    spare: tuple[str, ...]
    trials: tuple[Omission, ...]

    def without(self, *names: str) -> Omission | None:
        """The run in which exactly these packages were left out."""
        return next((item for item in self.trials if set(item.packages) == set(names)), None)

    def told(self, name: str) -> str:
        """What came of leaving a package out, in words; '' for one that was not left out."""
        if alone := self.without(name):
            return f"alone: {alone.served.told}"
        for item in self.trials:
            if name in item.packages:
                return f"with {len(item.packages) - 1} others: {item.served.told}"
        return ""


class Unneeded(Record):
    """The packages of a variant by their use, and what they weigh in it (bytes): ``packages`` are not
    needed, ``idle`` needed by Debian's dependencies alone, ``needed`` opened by a replica."""

    variant: str
    packages: tuple[str, ...]
    idle: tuple[str, ...]
    needed: tuple[str, ...]
    bytes: int
    idle_bytes: int
    total: int
    evidence: Evidence


@action("rootfs.unneeded")
def unneeded(lab: Lab, variant: str = "debootstrap") -> Outcome[Unneeded]:
    """Names the packages of a root file system that a replica does not need.

    Builds the root file system and the images when they are missing. The first call for an image probes a dozen
    containers, four at a time.

    :param variant: one of :data:`labkit.farm.rootfs.variants.VARIANTS`.
    :returns: the packages by their use, as value and as tables: ``unneeded`` has each package's size (bytes), the
        reason for which it is there, and what came of leaving it out of the farm's image; ``uses`` sums them up;
        ``trials`` has what was left out.
    :raises FarmError: the farm's image does not serve.

    >>> study.unneeded(lab, "essential").frames["unneeded"]
    """
    built = rootfs.build(lab, variant)
    unpacked = images.unpacked(lab, lab.sites[0].name)
    found = evidence(lab)
    contents = Contents.read(built.value.variant, built.value.path)
    listed = judged(contents, found, asked(variants.named(variant), lab.rootfs.packages))
    value = _value(contents, listed, found)
    web = Contents.read("image", *unpacked.lower)
    return Outcome(
        value=value,
        subject=value.variant,
        summary=_summary(value),
        changed=built.changed,
        checks=(
            separable(value, built.value.path),
            linked(web, unpacked.lower[-1], found.needed),
            _answers(found),
        ),
        tables=(
            package_table(contents, listed),
            ground_table(contents, listed),
            trial_table(found),
        ),
    )


def judged(contents: Contents, found: Evidence, given: Asked) -> pandas.DataFrame:
    """One row a package, those that are not needed first, the heaviest of each use before the others. Pure."""
    needed = packages.closure(contents.packages, found.needed)  # also what a smaller image lacks
    why = reasons(contents.packages, given)
    sizes = sums(file_frame(contents), "package")["size"]

    def row(package: Package) -> dict[str, Cell]:
        name = package.name
        use: Use = "opened" if name in found.opened else "idle" if name in needed else "unneeded"
        absent = "" if name in (*found.needed, *found.spare) else ABSENT
        return {
            "package": name,
            "size": sizes.get(name, 0),
            "use": MEANING[use],
            "why it is there": why[name].text,
            "left out of the farm's image": found.told(name) or absent,
            "what it is": package.description,
            "section": package.section,
            "it, or what needs it, is": why[name].ground,
        }

    rows = pandas.DataFrame(map(row, contents.packages))
    rows["use"] = pandas.Categorical(rows["use"], MEANING.values(), ordered=True)
    return rows.sort_values(["use", "size"], ascending=[True, False])


def package_table(contents: Contents, listed: pandas.DataFrame) -> Table:
    """One row a package. Pure."""
    rows = listed.drop(columns="it, or what needs it, is")
    title = f"The packages of {contents.name}: what a container that serves does without"
    return Table.of("unneeded", title, rows, units={"size": "bytes"})


def ground_table(contents: Contents, listed: pandas.DataFrame) -> Table:
    """One row a use and a ground: how many packages, what they weigh; the last row is no package's. Pure."""
    groups = listed.groupby(["use", "it, or what needs it, is"], observed=True).agg(
        packages=("package", "size"),
        size=("size", "sum"),
        such=("package", lambda names: packages.naming(list(names), 4)),
    )
    ordered = groups.reset_index().sort_values(["use", "size"], ascending=[True, False])
    rows = ordered.rename(columns={"such": "such as"}).to_dict("records")
    rest = contents.weight.size - int(groups["size"].sum())
    rows.append({"use": "(no package)", "packages": 0, "size": rest})
    title = f"What {contents.name} consists of, by use"
    return Table.of("uses", title, rows, units={"size": "bytes"})


def trial_table(found: Evidence) -> Table:
    """One row for each set of packages left out of the farm's image: how a replica's job went without them."""
    whole = Omission(packages=(), files=0, size=0, served=found.whole)
    rows: list[dict[str, Cell]] = [
        {
            "left out": _which(item, found),
            "packages": len(item.packages),
            "files": item.files,
            "size": item.size,
            "page": item.served.web,
            "after a reload": item.served.reload,
            "ssh session": item.served.ssh,
        }
        for item in (whole, *found.trials)
    ]
    title = (
        f"The farm's image of {human_bytes(found.size)}, of which a replica opens "
        f"{counted(len(found.whole.opened), 'file')} with {human_bytes(found.opened_size)}: packages left out"
    )
    return Table.of("trials", title, rows, units={"size": "bytes"})


def _which(item: Omission, found: Evidence) -> str:
    """The packages that were left out, in words."""
    known = {
        frozenset(): "nothing",
        frozenset((*found.idle, *found.spare)): "all that are never opened",
        frozenset(found.spare): f"all that are {MEANING['unneeded']}",
    }
    return known.get(frozenset(item.packages)) or packages.naming(item.packages, 3)


def _value(contents: Contents, listed: pandas.DataFrame, found: Evidence) -> Unneeded:
    of = {use: listed[listed["use"] == meaning] for use, meaning in MEANING.items()}
    names = {use: tuple(sorted(part["package"])) for use, part in of.items()}
    return Unneeded(
        variant=contents.name,
        packages=names["unneeded"],
        idle=names["idle"],
        needed=names["opened"],
        bytes=int(of["unneeded"]["size"].sum()),
        idle_bytes=int(of["idle"]["size"].sum()),
        total=contents.weight.size,
        evidence=found,
    )


def _summary(value: Unneeded) -> str:
    found = value.evidence
    count = len(value.packages) + len(value.idle) + len(value.needed)
    every = found.without(*found.idle, *found.spare)
    tried = (
        f" Without {counted(len(every.packages), 'package')} ({human_bytes(every.size)} of "
        f"{human_bytes(found.size)}) of the farm's image: {every.served.told}."
        if every
        else ""
    )
    return (
        f"Of the {counted(count, 'package')} of {value.variant} a running replica opens files of "
        f"{len(value.needed)}; {len(value.packages)} ({human_bytes(value.bytes)} of "
        f"{human_bytes(value.total)}) are neither opened nor depended on, {len(value.idle)} "
        f"({human_bytes(value.idle_bytes)}) depended on, but never opened.{tried}"
    )


def separable(value: Unneeded, path: Path) -> Check:
    """dpkg's own answer, which removes nothing: does a needed package depend on one that goes?"""
    drop = ["dpkg", f"--root={path}", "--simulate", "--force-remove-essential", "--force-remove-protected", "--remove"]  # fmt: skip
    said = run.run([*drop, *value.packages], ok=(0, 1)) if value.packages else None
    drawn = re.findall(r"prevent removal of ([^\s:]+)", said.stderr) if said else []
    kept = len(value.needed) + len(value.idle)
    return Check(
        name=f"rootfs.unneeded.{value.variant}",
        expected="no needed package depends on one that is called unneeded",
        seen=f"needed after all: {packages.naming(sorted(drawn))}" if drawn else
        f"none of the {kept} needed depends on one of the {len(value.packages)} others",
        holds=not drawn and (said is None or not said.status),
        rows=("R4",),
        again=" ".join([*drop, *value.packages[:1]]),
    )  # fmt: skip


def linked(web: Contents, root: Path, needed: Sequence[str]) -> Check:
    """The dynamic linker's own answer, without ldd(1), its script: whose libraries do the servers load?"""
    loader = next(path.relative_to(root) for path in sorted(root.glob("lib*/ld*.so.*")))
    ask = ["chroot", str(root), f"/{loader}", "--list"]
    loading = [path for path in (*PROGRAMS, *modules(root)) if path in web.owners]
    owners = {PurePosixPath(file.path).name: web.owners[file.path].package for file in web.files}
    said = "".join(run.run([*ask, path]).stdout for path in loading)
    loaded = {owners.get(name, name) for name in parse_ldd(said)}
    stray = sorted(loaded - set(needed))
    return Check(
        name="rootfs.unneeded.libraries",
        expected="apache2, its modules and the ssh server load libraries of needed packages only",
        seen=f"of {', '.join(stray)} too"
        if stray
        else f"of {counted(len(loaded), 'package')}, all needed",
        holds=not stray and bool(loaded),
        rows=("R4",),
        again=" ".join([*ask, loading[0]]),
    )


def _answers(found: Evidence) -> Check:
    """The proof: the farm's image without what nothing asks for."""
    tried = found.without(*found.spare)
    return Check(
        name="rootfs.unneeded.left-out",
        expected=f"without {counted(len(found.spare), 'package')} of the farm's image that nothing asks for, "
        "apache2 and ssh answer",
        seen=tried.served.told if tried else "there are none",
        holds=found.whole.fine and (tried is None or tried.served.fine),
        rows=("R4",),
        again="./lab run 02-rootfs",
    )


def modules(root: Path) -> list[str]:
    """The files of the apache2 modules that are turned on in a root file system."""
    texts = (
        path.read_text(encoding="utf-8")
        for path in sorted((root / "etc/apache2/mods-enabled").glob("*.load"))
    )
    return [path for text in texts for path in re.findall(r"^LoadModule\s+\S+\s+(\S+)", text, re.M)]


def parse_ldd(text: str) -> set[str]:
    """The file names of the libraries in the dynamic linker's output, which is ldd(1)'s."""
    return {PurePosixPath(path).name for path in re.findall(r"(/\S+) \(0x", text)}


# -- the evidence of the farm's image ---------------------------------------------------------------


def evidence(lab: Lab) -> Evidence:
    """The evidence for the lab's image; the first time it takes a dozen containers, four at a time.

    Raises :class:`MachineError` where the kernel cannot tell which files are opened, and
    :class:`FarmError` when the image as it is does not do the job.
    """
    unpacked = images.unpacked(lab, lab.sites[0].name)
    folder = unpacked.lower[-1].parent
    return collected(lab, folder, _key(lab, unpacked), Evidence, lambda: _collect(lab, unpacked))


def classes(contents: Contents, opened: Collection[str]) -> Evidence:
    """The packages of an image by the files (paths) that a replica ``opened``. Pure."""
    names = {package.name for package in contents.packages}
    owners = {contents.owners[path].package for path in opened if path in contents.owners}
    programs = {contents.owners[path].package for path in PROGRAMS if path in contents.owners}
    needed = packages.closure(contents.packages, (owners | programs) & names)
    return Evidence(
        size=contents.weight.size,
        opened_size=sum(file.size for file in contents.files if file.path in opened),
        whole=Served(web="", reload="", ssh="", opened=tuple(sorted(opened))),
        opened=tuple(sorted(owners & names)),
        needed=tuple(sorted(needed)),
        idle=tuple(sorted(needed - owners)),
        spare=tuple(sorted(names - needed)),
        trials=(),
    )


def sets(contents: Contents, found: Evidence) -> Iterator[tuple[str, ...]]:
    """The packages to leave out, set by set: the spare ones, these and the idle ones, and each of
    the heaviest by itself. Pure."""
    both = (*found.idle, *found.spare)
    sizes = sums(file_frame(contents), "package")["size"]
    order = sizes.reindex(both, fill_value=0).sort_values(ascending=False, kind="stable").index
    yield from dict.fromkeys(
        names
        for names in (found.spare, tuple(sorted(both)), *((n,) for n in order[:SINGLE]))
        if names
    )


def files(contents: Contents, names: Collection[str]) -> tuple[str, ...]:
    """The files of packages, which go when those are left out. Pure."""
    return tuple(
        file.path
        for file in contents.files
        if file.form != "folder"
        and contents.owners[file.path].how in GOING
        and contents.owners[file.path].package in names
    )


def _collect(lab: Lab, unpacked: Unpacked) -> Evidence:
    contents = Contents.read("image", *unpacked.lower)
    weights = {file.path: file.size for file in contents.files}

    def leave_out(numbered: tuple[int, tuple[str, ...]]) -> Omission:
        number, names = numbered
        gone = files(contents, names)
        log.info("without %s: %d files", packages.naming(names, 3), len(gone))
        served = _serve_twice(lab, unpacked, gone, name=f"serving-{number}")
        size = sum(weights[path] for path in gone)
        return Omission(packages=names, files=len(gone), size=size, served=served)

    with lock(lab.run_dir, "farm"):
        log.info("which files does a replica open?")
        whole = _serve_twice(lab, unpacked, watch=True)
        if not whole.fine:
            raise FarmError(
                "a replica on the image as it is",
                f"does not serve its site: {whole.told}",
                "make the farm work first",
                "./lab run 05-web",
                code="farm.trial",
            )
        found = classes(contents, whole.opened)
        wanted = enumerate(sets(contents, found), 1)  # they mostly wait: for answers, and for runC
        trials = run.spread(leave_out, wanted)
    return found.model_copy(update={"whole": whole, "trials": tuple(trials)})


def _serve_twice(
    lab: Lab,
    unpacked: Unpacked,
    without: Sequence[str] = (),
    *,
    name: str = "serving",
    watch: bool = False,
) -> Served:
    """The job done once or, should it fail, once more: a busy machine is no reason."""
    done = serve(lab, unpacked, without, name=name, watch=watch)
    return done if done.fine else serve(lab, unpacked, without, name=name, watch=watch)


def _key(lab: Lab, unpacked: Unpacked) -> str:
    """Changes with the image and with what a site adds to it, but for the lab's own names."""
    plain = lab.model_copy(update={"name": "lab", "dns": lab.dns.model_copy(update={"domain": ""})})
    added = sites.files(plain, plain.sites[0])
    job = (probes.QUESTION, container.SSH_CONFIGURATION, SINGLE)
    return key_of("removal", EDITION, job, unpacked.lower[-1].parent.name, added)


# -- a replica's job, done once ----------------------------------------------------------------------


def serve(
    lab: Lab,
    unpacked: Unpacked,
    without: Iterable[str] = (),
    *,
    name: str = "serving",
    watch: bool = False,
    page_only: bool = False,
) -> Served:
    """Does a replica's job once, in a throw-away container on an image without some files.

    The caller holds the ``farm`` lock; several calls with different names may run side by side.

    :param unpacked: the image, with a site's files.
    :param without: paths as they lie in the image, from its root on (``/usr/bin/perl``).
    :param name: the container is called ``trial-NAME``.
    :param watch: whether to report the files that are opened.
    :param page_only: whether to end after the first page, so that what was opened is that page's alone.
    """
    setup = Setup(name=name, site=lab.sites[0].name, plain=True)
    with prepared(lab, unpacked, [setup]) as (one,):
        if one.error:
            raise one.error
        for path in without:
            Path(f"{one.root}{path}").unlink()
        with watching(one.root) if watch else nullcontext(set[str]()) as opened:
            done = _job(one, page_only=page_only)
            if watch and done.fine:  # what it opens when it stops counts too
                one.signal(probes.STOP)
                container.wait(lab, one.name)
    return done.model_copy(update={"opened": tuple(sorted(opened))})


def _job(one: Container, *, page_only: bool) -> Served:
    """The parts of the job, one after the other; a server that has ended is not asked the rest."""
    try:
        container.create(one.lab, one.name)
        one.begin()
    except LabkitError as error:
        return Served(web=error.reason, reload=UNTRIED, ssh=UNTRIED)
    web = _page(one)
    if web != FINE or page_only:
        return Served(web=web, reload=UNTRIED, ssh=UNTRIED)
    one.signal(probes.RELOAD)
    reload = _page(one)
    return Served(web=web, reload=reload, ssh=_session(one) if one.runs() else UNTRIED)


def _page(one: Container) -> str:
    """Whether the page is there, and one that does not exist is not."""
    seen = "no answer"

    def answers() -> bool:
        nonlocal seen
        with suppress(*fetch.ERRORS):
            seen = " ".join(str(probes.ask(one, path).status) for path in ("/", "/none"))
        return seen == "200 404" or not one.runs()

    probes.until(answers)
    if seen == "200 404":
        return FINE
    if not one.runs():
        return f"apache2 has ended: {one.last_words()}"
    return f"status {seen} instead of 200 and 404"


def _session(one: Container) -> str:
    """Whether ssh opens a session in which programs run."""
    try:
        said = probes.session(one)
    except FarmError as error:
        said = f"{error.value} {error.reason}"
    return FINE if said == f"{one.name} root" else said
