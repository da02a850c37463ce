"""Builds the lab's images: two layers that all sites share, and a layer for each site.

``base`` is the root file system; ``web`` adds apache2 and an ssh server, without starting them and without the keys
of an ssh host, which belong to the lab. These two are the same for all labs with the same root file system, so they are
made once, in the cache. The lab's layout takes them over by hard links: a blob's name is the hash of its content, so
nothing writes into one. ``buildplan.json`` and the sites' blobs are the lab's. A layout is made beside its place and then
renamed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from labkit import reading
from labkit.core import cache, run
from labkit.core.files import write_atomically
from labkit.core.journal import Journal
from labkit.errors import CommandError, ConfigError, MachineError, StateError
from labkit.farm import rootfs
from labkit.farm.images import store, unpacking
from labkit.farm.images.store import configure, dated, made_by, umoci, umoci_version
from labkit.farm.rootfs import apt, buildplan, packages, sandbox, variants
from labkit.farm.rootfs.apt import AbsentError
from labkit.farm.rootfs.bootstrap import cause_of, reporting, run_reported
from labkit.farm.rootfs.buildplan import Rootfs, key_of, program_version
from labkit.farm.rootfs.cache_entries import building, discard, made_once, recorded, write_record
from labkit.farm.rootfs.packages import Package
from labkit.farm.rootfs.repository import PackageCache, Repository
from labkit.farm.rootfs.sandbox import Access, gateway, no_services, tidy
from labkit.farm.rootfs.variants import FOLDERS, MODULES, PACKAGES
from labkit.model import sites
from labkit.model.config import Site
from labkit.model.lab import Lab
from labkit.records import Record

log = logging.getLogger("labkit.image")
#: Numbers that go up with every change of a build's result: of the common layers, and of the lab's layout.
LAYERS_EDITION, EDITION, DNS_EDITION = 4, 3, 1
#: The tags that all sites share.
COMMON = ("base", "web")
#: The image's environment: the variables that apache2's start script sets (Debian: /etc/apache2/envvars), so that the
#: server is the container's first process, without a script around it.
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "APACHE_RUN_USER": "www-data",
    "APACHE_RUN_GROUP": "www-data",
    "APACHE_RUN_DIR": "/run/apache2",
    "APACHE_LOCK_DIR": "/run/lock/apache2",
    "APACHE_LOG_DIR": "/var/log/apache2",
    "APACHE_PID_FILE": "/run/apache2/apache2.pid",
}
COMMAND = ("apache2", "-D", "FOREGROUND")
#: Apache's signal to stop after the requests that it has begun (stopping.html of its manual).
STOP_SIGNAL = "SIGWINCH"
#: The keys of an ssh host, which the installation makes and which are removed.
KEYS = "etc/ssh/ssh_host_*"
#: Installs packages; the output of their scripts goes where apt's goes, as there is no terminal.
INSTALL = (
    "apt-get", "install", "--quiet", "--yes", "--no-install-recommends", "--option=Dpkg::Use-Pty=false",
)  # fmt: skip
#: What determines the common layers, besides the root file system and the packages.
RECIPE = (
    LAYERS_EDITION,
    PACKAGES,
    MODULES,
    dict(ENVIRONMENT),
    COMMAND,
    sorted(FOLDERS.items()),
    KEYS,
)
#: What the image of a cluster's name server adds.
DNS_PACKAGES = ("dnsmasq-base",)
#: Bytes that must be free while the layers are made.
SPACE = 1_000_000_000


class Layers(Record):
    """The layout in the cache with the tags ``base`` and ``web``: how many seconds it took, the source date of the
    files in ``web`` (``epoch``, :mod:`labkit.farm.rootfs.sandbox`), the number of packages in it, and their
    :func:`fingerprint` (``listed``)."""

    key: str
    layout: Path
    seconds: float
    suite: str
    epoch: int
    packages: int
    listed: str


def common_layers(lab: Lab, base: Rootfs) -> tuple[Layers, bool]:
    """Makes the two common layers on the root file system ``base`` in the cache, if they are not there; returns
    them, and whether they had to be made."""
    version = umoci_version()
    serves = variants.named(base.variant).serves
    repository = Repository()
    if not serves:
        archive = apt.ensure_lists(lab)
        repository = buildplan.needed(archive, archive.sources, PACKAGES)
    key = key_of(f"web-{base.suite}", base.key, version, RECIPE, repository.digest)
    place = lab.cache_dir / "images" / key
    return made_once(
        lab,
        place,
        "images",
        lambda: recorded(place, Layers, layout=place / "layout"),
        lambda: _make_layers(lab, base, repository, place, version),
    )


def servers(lab: Lab) -> Layers:
    """The layout in the cache with the images of a cluster's servers, made if it is not there: ``web`` with a whole
    apache2, whatever the lab's own root file system lacks, and ``dns`` with dnsmasq on top of it."""
    plain = lab.model_copy(
        update={"rootfs": lab.rootfs.model_copy(update={"variant": "essential", "packages": ()})}
    )
    common, _ = common_layers(plain, rootfs.build(plain).value)
    archive = apt.ensure_lists(lab)
    repository = buildplan.needed(archive, archive.sources, DNS_PACKAGES)
    key = key_of(
        f"dns-{common.suite}",
        common.key,
        umoci_version(),
        (DNS_EDITION, DNS_PACKAGES),
        repository.digest,
    )
    place = lab.cache_dir / "images" / key
    return made_once(
        lab,
        place,
        "images",
        lambda: recorded(place, Layers, layout=place / "layout"),
        lambda: _make_dns(lab, common, repository, place),
    )[0]


def _make_dns(lab: Lab, common: Layers, repository: Repository, place: Path) -> Layers:
    started, began = time.monotonic(), time.time()
    what = f"dns image of {common.suite}"
    with building(lab, place, what=what, space=SPACE) as work:
        image, bundle = work / "layout", work / "bundle"
        store.copy_layout(common.layout, image)
        umoci("unpack", "--image", f"{image}:web", bundle)
        cached = PackageCache.of(lab)
        try:
            epoch = install(bundle / "rootfs", repository, cached, began, DNS_PACKAGES)
        except (CommandError, AbsentError) as error:
            raise cause_of(cached, what, error) from error
        by = made_by(f"apt-get install {' '.join(DNS_PACKAGES)}", epoch)
        umoci("repack", "--image", f"{image}:dns", *by, bundle)
        command = ("--config.cmd=dnsmasq", "--config.cmd=--keep-in-foreground")
        configure(f"{image}:dns", (*command, "--config.stopsignal=SIGTERM", *dated(epoch)))
        store.drop_unused(image)
        listed = packages.read(bundle / "rootfs")
        discard(lab, bundle)
        value = common.model_copy(
            update={
                "key": place.name,
                "layout": place / "layout",
                "seconds": round(time.monotonic() - started, 2),
                "packages": len(listed),
                "listed": fingerprint(listed),
            }
        )
        write_record(work, value)
    return value


def _make_layers(
    lab: Lab, base: Rootfs, repository: Repository, place: Path, version: str
) -> Layers:
    run.require("umoci", "setpriv", "unshare", "nsenter", "chroot", "cp")
    started, began = time.monotonic(), time.time()
    what = f"web image of {base.suite}"
    with building(lab, place, what=what, space=SPACE) as work:
        image, bundle = work / "layout", work / "bundle"
        log.info("image: base layer")
        umoci("init", "--layout", image)
        umoci("new", "--image", f"{image}:base")
        umoci("unpack", "--image", f"{image}:base", bundle)
        run.run(["cp", "--archive", "--link", f"{base.path}/.", bundle / "rootfs"], timeout=300)
        epoch = sandbox.source_date(base.path)
        by = made_by(base.origin, epoch)
        umoci("repack", "--image", f"{image}:base", *by, bundle)
        configure(f"{image}:base", base_options(base, version, epoch))
        if repository.sources:
            discard(lab, bundle)
            umoci("unpack", "--image", f"{image}:base", bundle)
            cached = PackageCache.of(lab)
            try:
                epoch = _web(repository, image, bundle, began, cached)
            except (CommandError, AbsentError) as error:
                raise cause_of(cached, what, error) from error
        else:  # the servers are in it: the same files, with another configuration
            configure(f"{image}:base", ("--tag", "web", *web_options(epoch)))
        store.drop_unused(image)
        listed = packages.read(bundle / "rootfs")
        unpacking.whole(lab, image, "web", packed=bundle / "rootfs")
        discard(lab, bundle)
        seconds = round(time.monotonic() - started, 2)
        value = Layers(
            key=place.name,
            layout=place / "layout",
            seconds=seconds,
            suite=base.suite,
            epoch=epoch,
            packages=len(listed),
            listed=fingerprint(listed),
        )
        write_record(work, value)
    return value


def _web(
    repository: Repository, image: Path, bundle: Path, began: float, cached: PackageCache
) -> int:
    """Installs the servers in ``bundle`` and packs the layout's tag ``web``; returns the source date."""
    epoch = install(bundle / "rootfs", repository, cached, began)
    log.info("image: web layer")
    by = made_by(f"apt-get install {' '.join(PACKAGES)}", epoch)
    umoci("repack", "--image", f"{image}:web", *by, bundle)
    configure(f"{image}:web", web_options(epoch))
    return epoch


def fingerprint(listed: Sequence[Package]) -> str:
    """Twelve digits that change with any package's name, version or architecture. Pure."""
    names = sorted(f"{item.name}={item.version}:{item.architecture}" for item in listed)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def base_options(base: Rootfs, version: str, epoch: int) -> tuple[str, ...]:
    """umoci's options for the configuration of the base image: its origin, and a PATH, without which no program in
    it is found."""
    labels = {
        "org.opencontainers.image.title": f"{base.variant} of {base.suite}",
        "labkit.rootfs": base.key,
        "labkit.origin": base.origin,
        "labkit.umoci": version,
    }
    return _options({"PATH": ENVIRONMENT["PATH"]}, ("/bin/sh",), labels, epoch)


def web_options(epoch: int) -> tuple[str, ...]:
    """umoci's options for the configuration of the web image: apache2 is the first process, on port 80."""
    process = ("--config.exposedports=80/tcp", f"--config.stopsignal={STOP_SIGNAL}")
    labels = {"org.opencontainers.image.title": " and ".join(PACKAGES)}
    return (*process, *_options(ENVIRONMENT, COMMAND, labels, epoch))


def _options(
    env: Mapping[str, str], command: Sequence[str], labels: Mapping[str, str], epoch: int
) -> tuple[str, ...]:
    return (
        *(f"--config.env={name}={value}" for name, value in env.items()),
        *(f"--config.cmd={word}" for word in command),
        *(f"--config.label={name}={value}" for name, value in labels.items()),
        *dated(epoch),
    )


def install(
    root: Path,
    repository: Repository,
    cached: PackageCache,
    began: float,
    names: Sequence[str] = PACKAGES,
) -> int:
    """Installs a layer's packages in ``root``, without starting them, and removes the installation's traces;
    ``began`` is the time at which it began. Returns the source date."""
    for path in (root / "etc/apt/sources.list.d").glob("*"):
        path.unlink()
    (root / "etc/apt/sources.list").write_text(repository.lines, encoding="utf-8")
    status = (root / packages.STATUS).read_text(encoding="utf-8")
    with reporting("image", "download") as listen:
        repository.fetch(cached, names, root.with_name("apt"), status=status, on_line=listen)
    with no_services(root), gateway(cached, repository) as access:
        log.info("image: apt-get update")
        _chroot(root, access, "apt-get", "--quiet", "--option=Acquire::Languages=none", "update")
        log.info("image: apt-get install %s", " ".join(names))
        _chroot(root, access, *INSTALL, *names)
        if names == PACKAGES:
            _chroot(root, access, "a2enmod", "--quiet", *MODULES)
    repository.name_mirrors(root)
    tidy(root)
    for path in root.glob(KEYS):
        path.unlink()
    variants.prepare(root)
    return sandbox.settle(root, began, layer=True)


def _chroot(root: Path, access: Access, *argv: str) -> None:
    run_reported(argv, name="image", phase=argv[0], access=access, root=root)


class LayoutRecord(Record):
    """The record beside a lab's layout: hashes of what it was made from, as a whole (``key``) and for each site
    (``parts``); its root file system in words; the versions of the programs; and the manifest of each tag."""

    key: str
    rootfs: str = ""
    tools: str = ""
    parts: dict[str, str] = Field(default_factory=dict)
    digests: dict[str, str]


def place(lab: Lab) -> Path:
    """The folder with the lab's ``layout`` and its record."""
    return lab.state_dir / "image"


def refuse_common_names(lab: Lab) -> None:
    """Raises :class:`ConfigError` when a site has the name of a common tag."""
    for site in lab.sites:
        if site.name in COMMON:
            raise ConfigError(
                f"sites: {site.name!r}",
                f"is the name of an image that all sites are based on ({', '.join(COMMON)})",
                "give the site another name",
                code="config.site-name",
            )


def made_from(lab: Lab, suite: str) -> str:
    """The root file system of the images that the lab asks for, in words; ``suite`` is the suite that '' stands for.
    Pure."""
    asked = lab.rootfs
    more = f" and {' '.join(sorted(set(asked.packages)))}" if asked.packages else ""
    mirror = " from the lab's own mirror" if asked.mirror else ""
    return f"{asked.variant} of {asked.suite or suite} by {asked.tool}{more}{mirror}"


def tools(lab: Lab) -> str:
    """The versions of the machine's programs that make images, which decide the images' bytes."""

    def version(program: str) -> str:
        try:
            return program_version(program)
        except MachineError:
            return "(not installed)"

    return ", ".join(f"{name} {version(name)}" for name in ("umoci", lab.rootfs.tool))


def record(lab: Lab) -> LayoutRecord | None:
    """The record of the lab's layout; None without one, or with a damaged one."""
    try:
        return LayoutRecord.model_validate_json(reading.content(place(lab) / "image.json"))
    except (OSError, ValueError):
        return None


def is_current(lab: Lab, common: Layers) -> bool:
    """Whether the layout is complete, and the one that this lab and these layers give."""
    if not cache.whole(place(lab)):
        return False
    try:
        found = _digests(place(lab) / "layout")
    except StateError:  # removed since
        return False
    return record(lab) == _record(lab, common, found)


def make(lab: Lab, common: Layers) -> None:
    """Makes the lab's layout anew: images that are current are taken over, the others are made. The caller holds the
    ``image`` lock."""
    Journal.of(lab).intend("folder", path=str(place(lab)))
    below = unpacking.whole(lab, common.layout, "web")
    with building(lab, place(lab), what=f"images of {lab.name}") as work:
        layout = work / "layout"
        store.copy_layout(common.layout, layout)
        current = _current_sites(lab, common)
        store.adopt(place(lab) / "layout", layout, current)
        for site in lab.sites:
            if site.name not in current:
                _add(lab, site, work, below, common.epoch)
        store.drop_unused(layout)
        made = _record(lab, common, _digests(layout))
        write_atomically(work / "image.json", made.model_dump_json(indent=1))


def _current_sites(lab: Lab, common: Layers) -> tuple[str, ...]:
    """The sites whose image in the layout is complete, and the one that would be made again."""
    kept, layout = record(lab), place(lab) / "layout"
    try:
        lost, found = set(store.missing(layout)), _digests(layout)
        return tuple(
            site.name
            for site in lab.sites
            if kept is not None
            and kept.parts.get(site.name) == _part(lab, common, site)
            and kept.digests.get(site.name) == found.get(site.name, "none")
            and lost.isdisjoint(store.blobs_of(layout, site.name))
        )
    except (OSError, ValueError, StateError):
        return ()


def _add(lab: Lab, site: Site, work: Path, below: Path, epoch: int) -> None:
    """Adds the site's tag to the layout in ``work``: web's layers and one with the site's files.

    Nothing in it depends on the time: the same files give the same image again.
    """
    archive = work / f"{site.name}.tar"
    store.write_layer(archive, sites.files(lab, site), below)
    history = made_by(f"labkit: the files of {site.name}", epoch)
    image = ("--image", f"{work}/layout:web", "--tag", site.name)
    umoci("raw", "add-layer", *image, *history, archive)
    archive.unlink()
    labels = {
        "org.opencontainers.image.title": lab.title(site),
        "labkit.lab": lab.name,
        "labkit.site": site.name,
    }
    configure(f"{work}/layout:{site.name}", _options({}, (), labels, epoch))


def _digests(layout: Path) -> dict[str, str]:
    return {name: pointer.digest for name, pointer in store.tags(layout).items()}


def _record(lab: Lab, common: Layers, digests: dict[str, str]) -> LayoutRecord:
    return LayoutRecord(
        key=_hash(common, contents(lab)),
        rootfs=made_from(lab, common.suite),
        tools=tools(lab),
        parts={site.name: _part(lab, common, site) for site in lab.sites},
        digests=digests,
    )


def contents(lab: Lab) -> dict[str, list[object]]:
    """The title and the files of each site."""
    return {site.name: [lab.title(site), sites.files(lab, site)] for site in lab.sites}


def _part(lab: Lab, common: Layers, site: Site) -> str:
    return _hash(common, lab.name, lab.title(site), sites.files(lab, site))


def _hash(common: Layers, *parts: object) -> str:
    """Changes with the common layers, and with the parts."""
    web = store.tag(common.layout, "web").manifest
    text = json.dumps([EDITION, common.key, web, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
