"""Makes a root file system smaller by the steps of its variant: ``python -m labkit.farm.rootfs.shrink --help``.

A step names a rule: a function from a tree to a smaller tree, pure but for reading files. Each rule is given the tree,
the step, and all files that exist: of the root file system from which the first step started, and of packages that
steps add. It runs as a process, so that it is sealed off and ends with labkit.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile

from labkit.farm.rootfs import assembly, packages
from labkit.farm.rootfs.assembly import Selection, pattern
from labkit.farm.rootfs.contents import File, joined
from labkit.farm.rootfs.tree import Item, Tree
from labkit.farm.rootfs.variants import LADDER, Step

Rule = Callable[[Tree, Step, Tree], Tree]

#: Where commands are; where shared objects are that the linker finds by name.
COMMANDS = re.compile(r"/usr/(local/)?s?bin/[^/]+")
LIBRARY = re.compile(r"/usr/lib/([^/]+-linux-[^/]+/)?[^/]+\.so(\.[^/]*)?")
#: apache2's folders of what is turned on, and what may be.
ENABLED, AVAILABLE = (
    re.compile(r"/etc/apache2/\w+-enabled/.*"),
    re.compile(r"/etc/apache2/(mods|conf|sites)-available/.*"),
)
MODULE = re.compile(r"/usr/lib/apache2/modules/[^/]+\.so")
#: Folders that stay although nothing is left in them.
STANDING = re.compile(
    r"/|/(dev|etc|root|home|tmp|run|srv|mnt|var(/(cache|lib|log|tmp|www(/html)?))?)"
)
#: The list of its commands in the program busybox: the first two, then the others by the alphabet.
FIRST, SEPARATOR = b"\0[\0[[\0", b"\0"
#: What is not unpacked of packages that are added.
UNREAD = Selection(
    left_out=("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/initramfs-tools/*"),
    kept=("/usr/share/doc/*/copyright",),
)


def main() -> None:
    """Makes the target, a missing folder, of the root file system ``before``, which is not changed."""
    given = parser().parse_args()
    before, added = Tree.read(given.before), given.target.with_name("added")
    full = with_added(before, assembly.listed(given.packages), added)
    left = before
    for step in LADDER[given.variant]:
        print(f"leaving out: {step.name}", flush=True)
        left = apply(left, step, full)
    given.target.mkdir()
    left.write(given.target)
    shutil.rmtree(added, ignore_errors=True)


def parser() -> argparse.ArgumentParser:
    """The program's arguments; :func:`labkit.farm.rootfs.commands.steps` gives them."""
    made = argparse.ArgumentParser(prog="labkit.farm.rootfs.shrink", description=__doc__)
    made.add_argument("--variant", choices=LADDER, required=True)
    made.add_argument("--packages", type=Path, required=True, help="names their files, one a line")
    made.add_argument("before", type=Path)
    made.add_argument("target", type=Path)
    return made


def with_added(tree: Tree, files: Sequence[Path], folder: Path) -> Tree:
    """The tree with the files of packages that steps add.

    :param files: the packages' files; none gives the same tree.
    :param folder: a missing folder, in which the packages are unpacked and stay.
    """
    if not files:
        return tree
    folder.mkdir()
    assembly.unpack(files, folder, UNREAD, configured=True)
    return Tree.read(folder).having(tree.items, tree)


def apply(tree: Tree, step: Step, full: Tree) -> Tree:
    """The tree after the step, without folders that the step has emptied.

    :param full: all files that exist, which is the tree of :func:`with_added`.
    """
    after = RULES[step.rule](tree, step, full)
    return after.without(_emptied(tree, after))


def needed_libraries(data: bytes) -> tuple[str, ...] | None:
    """The names of the shared objects that a program or shared object asks for (ld.so(8)), in its order; None for a
    file that is not ELF."""
    try:
        parts = [
            s for s in ELFFile(io.BytesIO(data)).iter_segments() if isinstance(s, DynamicSegment)
        ]
    except ELFError:
        return None
    tags = [tag for part in parts for tag in part.iter_tags("DT_NEEDED")]
    return tuple(tag.needed for tag in tags)  # type: ignore[attr-defined]  # made while it runs


# -- the rules ---------------------------------------------------------------------------------------


def paths(tree: Tree, step: Step, _: Tree) -> Tree:
    """Without the paths that fit ``words``, but for those that fit ``kept`` (a shell's patterns)."""
    out, back = pattern(step.words), pattern(step.kept)
    return tree.without(
        {path for path in tree.items if out.fullmatch(path) and not back.fullmatch(path)}
    )


def needed(tree: Tree, step: Step, _: Tree) -> Tree:
    """Without the files of all packages that the packages ``words`` do not need. ``kept`` are dependencies
    that do not count: what only they need goes with them."""
    cut = set(step.kept)
    listed = [package for package in tree.packages if package.name not in cut]
    stay = packages.closure(listed, step.words)
    return _of_packages(tree, {package.name for package in tree.packages} - stay)


def modules(tree: Tree, step: Step, _: Tree) -> Tree:
    """Without the modules and configurations of apache2 that are not turned on."""
    on = {place for path in tree.items if ENABLED.fullmatch(path) and (place := tree.place(path))}
    text = "".join(tree.data(path).decode("utf-8", "replace") for path in sorted(on))
    loaded = set(re.findall(r"^\s*LoadModule\s+\S+\s+(\S+)", text, re.MULTILINE))
    gone = {
        path
        for path, item in tree.items.items()
        if item.file.form != "folder"
        and (
            (MODULE.fullmatch(path) and path not in loaded)
            or (AVAILABLE.fullmatch(path) and path not in on)
        )
    }
    return tree.without(gone)


def programs(tree: Tree, step: Step, _: Tree) -> Tree:
    """Without all commands but ``words`` (names), what those are links to, and links to these."""
    commands = [path for path in tree.items if COMMANDS.fullmatch(path)]
    stay = {tree.place(path) for path in commands if _name(path) in step.words}
    return tree.without({path for path in commands if tree.place(path) not in stay})


def libraries(tree: Tree, step: Step, _: Tree) -> Tree:
    """Without the shared objects that no program, plug-in or other shared object of the tree asks for;
    ``words`` are asked for while a program runs, which no file says (patterns)."""
    kept = pattern(step.words)
    by_name: dict[str, str] = {}
    for path in tree.items:
        if LIBRARY.fullmatch(path) and (place := tree.place(path)):
            by_name[_name(path)] = place
    candidates = set(by_name.values())
    start = [
        path
        for path, item in tree.items.items()
        if item.file.form == "file" and (path not in candidates or kept.fullmatch(path))
    ]

    def needs(path: str) -> list[str]:
        names = needed_libraries(tree.data(path)) or ()
        return [by_name[name] for name in names if name in by_name]

    return tree.without(candidates - packages.reachable(start, needs))


def busybox(tree: Tree, step: Step, full: Tree) -> Tree:
    """Without the packages ``words``; busybox has those of their commands that it knows, and is each user's
    shell whose own shell is gone."""
    added = _added(tree, ("busybox",), full)
    program = "/usr/bin/busybox"
    applets = set(applet_names(added.data(program)))
    gone = _of_packages(added, set(step.words))
    lost = [p for p in tree.items if COMMANDS.fullmatch(p) and p not in gone.items]
    links = {
        path: Item(File(path, "link", len(target), 0, target=target), None, "busybox")
        for path in (*lost, *step.kept)
        if _name(path) in applets
        for target in (_relative(path, program),)
    }
    return _shells(gone.having(links))


def swap(tree: Tree, step: Step, full: Tree) -> Tree:
    """With the packages ``kept`` and what they need; without ``words``."""
    return _of_packages(_added(tree, step.kept, full), set(step.words))


def remnants(tree: Tree, step: Step, _: Tree) -> Tree:
    """Without what is left of packages that brought programs or data and have none any more: configuration,
    licences, folders. ``kept`` are packages that are there for such files (patterns of their names)."""
    plain = pattern(step.kept)
    stay = tree.alive() | {name for name in tree.left() if plain.fullmatch(name)}
    full = {above for p, i in tree.items.items() if i.package in stay for above in (p, *_above(p))}
    return tree.without(
        {
            path
            for path, item in tree.items.items()
            if item.package
            and item.package not in stay
            and path not in full
            and not STANDING.fullmatch(path)
        }
    )


def only(tree: Tree, step: Step, _: Tree) -> Tree:
    """With nothing but the files that are really at ``words``, links and folders that lead there, and what
    fits ``kept`` (patterns)."""
    stay, kept = set(step.words), pattern(step.kept)
    stay |= {path for path, item in tree.items.items() if item.file.form == "folder"}
    return tree.without(
        {
            path
            for path, item in tree.items.items()
            if item.file.form != "folder"
            and tree.place(path) not in stay
            and not kept.fullmatch(path)
        }
    )


def applet_names(data: bytes) -> list[str]:
    """The commands that a busybox knows, from the program itself; none when it is no busybox."""
    start = data.find(FIRST)
    if start < 0:
        return []
    listed = data[start + 1 : data.index(SEPARATOR * 2, start)]
    return [name.decode() for name in listed.split(SEPARATOR)]


RULES: Mapping[str, Rule] = {
    "paths": paths, "needed": needed, "modules": modules, "programs": programs,
    "libraries": libraries, "busybox": busybox, "swap": swap, "remnants": remnants,
    "only": only,
}  # fmt: skip


def _of_packages(tree: Tree, names: Collection[str]) -> Tree:
    """Without the files that are owed to these packages, and their folders with nothing in them."""
    full = {path.rpartition("/")[0] for path in tree.items}
    return tree.without(
        {
            path
            for path, item in tree.items.items()
            if item.package in names and path not in full and not STANDING.fullmatch(path)
        }
    )


def _added(tree: Tree, names: Iterable[str], full: Tree) -> Tree:
    """With the files of those packages, and of what they need of which nothing is left in the tree."""
    wanted = packages.closure(full.packages, names) - tree.left()
    own = {path: item for path, item in full.items.items() if item.package in wanted}
    folders = {
        above: full.items[above]
        for path in own
        for above in _above(path)
        if above not in tree.items and above in full.items
    }
    return tree.having({**folders, **own}, full)


def _shells(tree: Tree) -> Tree:
    """Users whose shell is gone have the one that is always there."""
    path = "/etc/passwd"
    lines = tree.data(path).decode().splitlines()
    users = [line.rpartition(":") for line in lines]
    text = "".join(
        f"{front}:{shell if tree.place(shell) else '/bin/sh'}\n" for front, _, shell in users
    )
    item = tree.items[path]
    file = item.file._replace(size=len(text.encode()))
    return tree.having({path: item._replace(file=file, text=text)})


def _emptied(before: Tree, after: Tree) -> set[str]:
    """Folders of ``after`` that had something in ``before``, and now have nothing but such folders."""
    had = {above for path in before.items for above in _above(path)}
    empty = {p for p, i in after.items.items() if i.file.form == "folder" and p not in had}
    ends = [p for p, i in after.items.items() if i.file.form != "folder" or p in empty]
    stays = empty | {above for path in ends for above in _above(path)}
    return {
        path
        for path, item in after.items.items()
        if item.file.form == "folder" and path not in stays and not STANDING.fullmatch(path)
    }


def _above(path: str) -> Iterator[str]:
    """The folders above a path, the root not among them."""
    above = path.rpartition("/")[0]
    while above:
        yield above
        above = above.rpartition("/")[0]


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _relative(path: str, target: str) -> str:
    """A link's target as it is written from the link's folder on."""
    if path.rpartition("/")[0] == target.rpartition("/")[0]:
        return _name(target)
    ups = "../" * (path.count("/") - 1)
    written = ups + target[1:]
    return written if joined(path, written) == target else target


if __name__ == "__main__":
    main()
