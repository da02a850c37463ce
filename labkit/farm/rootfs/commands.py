"""The commands that make each variant of a root file system. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labkit.errors import ConfigError
from labkit.farm.rootfs import variants
from labkit.farm.rootfs.apt import SCRIPTS, Archive, Source
from labkit.farm.rootfs.repository import ADDRESS, Repository
from labkit.farm.rootfs.variants import Variant
from labkit.records import Record

#: mmdebstrap's own hook for suites where one of two packages merges /usr: it takes the one that needs
#: no perl (as debootstrap does), which is 48 MB less in bookworm.
MERGE_HOOK = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"
#: Where dpkg is told which paths were left out (dpkg.cfg(5)).
LEFT_OUT = "etc/dpkg/dpkg.cfg.d/99labkit"
#: What is left out of the farm's base: for people to read, and never read in a container.
UNREAD = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")
#: What else is left out of the root file systems that serve: character sets that nobody converts, and
#: Perl but for what each Debian system has. Maintainer scripts may rely on that alone (Debian's policy,
#: 3.8 and 7.2), so packages install as ever; ``a2enmod`` needs two names more.
UNUSED = (
    "/usr/share/lintian/*", "/usr/lib/*/gconv/*", "/usr/lib/*/perl/*", "/usr/share/perl/*",
    "/usr/lib/*/libperl.so*", "/usr/bin/perl5*-*",
)  # fmt: skip
COPYRIGHT = "/usr/share/doc/*/copyright"
STAYING = (COPYRIGHT, "/usr/share/perl/*/if.pm", "/usr/share/perl/5.[0-9][0-9]")

#: What debuerreotype-init starts instead of debootstrap, with the same words: … SUITE TARGET MIRROR SCRIPT.
COPIED = """#!/bin/sh
while [ $# -gt 3 ]; do shift; done
mkdir -p "$1" && exec cp --archive "BASE/." "$1"
"""


#: What systems begin with, in apt's words; and what all have: apt, and not the package that merges /usr by a
#: program, for it is merged before.
BEGINNINGS = {
    "minbase": ("?priority(required)",),
    "essential": ("?essential",),
    "dpkg": ("?essential",),
}
IMPORTANT = ("?priority(required)", "?priority(important)")
ALL = ("usrmerge-", "apt")


class BuildStep(Record):
    """One command of a build, and what a person is told that it does.

    ``argv`` begins with a program, or with a module of labkit that is started as one. The arguments of a ``quiet``
    command name a registry and are not for the report."""

    doing: str
    argv: tuple[str, ...]
    quiet: bool = False


def steps(
    variant: Variant,
    suite: str,
    target: Path,
    *,
    packages: Sequence[str],
    script: Path,
    before: Path = Path("before"),
) -> tuple[BuildStep, ...]:
    """The commands that make ``target``.

    :param packages: further packages.
    :param script: a file beside the target (:func:`script_text`); :func:`fetched` is beside it.
    :param before: the root file system that it is made from, for a variant that is made from another.
    """
    include = [f"--include={','.join(packages)}"] if packages else []
    commands: dict[str, Sequence[str | Path]]
    match variant.tool, variant.mode:
        case "debootstrap", mode:
            commands = {"debootstrap": _debootstrap(mode, suite, target, include)}
        case "mmdebstrap", mode:
            commands = {"mmdebstrap": _mmdebstrap(mode, suite, target, packages, script)}
        case "debuerreotype", "slim":
            commands = {
                "copy": ("cp", "--archive", before, target),
                "slim": ("debuerreotype-slimify", target),
            }
        case "debuerreotype", _:
            commands = {
                "debootstrap": (
                    "debuerreotype-init",
                    "--non-debian",  # from the mirror as it is today, not from a dated snapshot of it
                    *include,
                    f"--debootstrap={script}",
                    target,
                    suite,
                    f"{ADDRESS}/0",
                ),
                "minimise": ("debuerreotype-minimizing-config", target),
            }
        case _, "shrunk":
            given = (f"--variant={variant.name}", f"--packages={fetched(script)}")
            commands = {"shrink": ("labkit.farm.rootfs.shrink", *given, before, target)}
        case _:
            commands = {"assemble": _assembly(target, packages, script)}
    return tuple(
        BuildStep(doing=doing, argv=tuple(map(str, words))) for doing, words in commands.items()
    )


def _debootstrap(
    mode: str, suite: str, target: Path, include: Sequence[str]
) -> Sequence[str | Path]:
    """Raises ConfigError for a suite that debootstrap has no script for."""
    if not Path(SCRIPTS, suite).exists():
        raise ConfigError(
            f"rootfs.suite = {suite!r}",
            "this machine's debootstrap does not know the suite",
            "use mmdebstrap (rootfs.tool), or install a newer debootstrap",
            f"ls {SCRIPTS}",
            code="config.unknown-suite",
        )
    return (
        "debootstrap",
        *((f"--variant={mode}",) if mode else ()),
        *include,
        "--no-check-gpg",  # apt has verified the lists, by the machine's keys
        suite,
        target,
        f"{ADDRESS}/0",
    )


def _mmdebstrap(
    mode: str, suite: str, target: Path, packages: Sequence[str], script: Path
) -> Sequence[str | Path]:
    """The hooks let dpkg leave out what is not read. mmdebstrap's own way (``--dpkgopt``) starts a Python program for
    each package that it extracts, before dpkg installs them all once more."""
    farm = mode == "essential"
    lines = [*(f"'path-exclude={path}'" for path in UNREAD), f"'path-include={COPYRIGHT}'"]
    folder = LEFT_OUT.rpartition("/")[0]
    unread = " ".join(f'"$1"{path.removesuffix("/*")}' for path in UNREAD)
    hooks = (
        f'--setup-hook=mkdir -p "$1"/{folder} && printf "%s\\n" {" ".join(lines)} >"$1"/{LEFT_OUT}',
        f"--extract-hook=rm -rf {unread}",
    )
    return (
        "mmdebstrap",
        "--verbose",  # it passes on what apt and dpkg say: how far they are
        "--mode=root",
        f"--hook-dir={MERGE_HOOK}",
        f"--variant={mode}",
        *((f"--include={','.join(('apt', *packages))}",) if farm or packages else ()),
        *(hooks if farm else ()),
        suite,
        target,
        script,
    )


def _assembly(target: Path, packages: Sequence[str], script: Path) -> Sequence[str | Path]:
    return (
        "labkit.farm.rootfs.assembly",
        f"--sources={script}",
        f"--packages={fetched(script)}",
        f"--include={','.join((*variants.PACKAGES, 'apt', *packages))}",
        *(f"--leave-out={path}" for path in (*UNREAD, *UNUSED)),
        *(f"--keep={path}" for path in STAYING),
        target,
    )


def recipe(variant: Variant, suite: str, packages: Sequence[str]) -> str:
    """All that a variant's commands say, with stand-ins for what does not determine the outcome."""
    made = steps(variant, suite, Path("target"), packages=packages, script=Path("script"))
    words = [word for command in made for word in command.argv]
    return repr((variant.edition, words, variants.LADDER.get(variant.name, ())))


def asked(variant: Variant, packages: Sequence[str]) -> frozenset[str]:
    """The packages that a variant's commands name, besides those of every system."""
    if variant.mode == "shrunk":
        return frozenset(variants.ADDED[variant.name])
    return frozenset((*(variants.PACKAGES if variant.tool == "dpkg" else ()), *packages))


def sources(variant: Variant, archive: Archive) -> tuple[Source, ...]:
    """Where its packages come from: what serves has the suite's security fixes in it from the beginning."""
    return archive.sources if variant.tool == "dpkg" else (archive.main,)


def wanted(variant: Variant, packages: Sequence[str]) -> tuple[str, ...]:
    """What its build fetches first, in apt's words; its tool may ask for more."""
    if variant.mode == "shrunk":
        return variants.ADDED[variant.name]
    if variant.tool == "debuerreotype":
        return ()
    begins = BEGINNINGS.get(variant.mode or variant.tool, IMPORTANT)
    return (*begins, *ALL, *(variants.PACKAGES if variant.tool == "dpkg" else ()), *packages)


def script_text(variant: Variant, repository: Repository, *, base: Path | None = None) -> str:
    """What the file beside the target holds: sources.list for mmdebstrap, the same as it is to be in the root file
    system for dpkg, what debuerreotype takes for debootstrap.

    :param base: the same variant, made already, for debuerreotype.
    """
    if variant.tool == "debuerreotype":
        return COPIED.replace("BASE", str(base))
    if variant.tool == "mmdebstrap":
        return repository.lines
    return "".join(f"{source.line}\n" for source in repository.sources)


def fetched(script: Path) -> Path:
    """The file that names the packages that were fetched, one a line."""
    return script.with_name("fetched")


def pull_steps(variant: Variant, suite: str, work: Path, registry: str) -> tuple[BuildStep, ...]:
    """The commands that pull the official image into ``work/image`` and unpack it to ``work/rootfs``."""
    tag = f"{suite}{variant.image}"
    loopback = registry.partition(":")[0] in ("127.0.0.1", "localhost")
    unchecked = ("--src-tls-verify=false",) if loopback else ()
    source, image = f"docker://{registry}/library/debian:{tag}", f"{work}/image:{tag}"
    return (
        BuildStep(
            doing="pull", quiet=True, argv=("skopeo", "copy", *unchecked, source, f"oci:{image}")
        ),
        BuildStep(
            doing="unpack", argv=("umoci", "raw", "unpack", "--image", image, f"{work}/rootfs")
        ),
    )
