"""What a configuration may say: the sections of ``lab.toml``, and the notebooks' parameters. Reads
``lab.toml``; touches nothing else.
"""

from __future__ import annotations

import re
import shlex
import tomllib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from labkit import reading, text
from labkit.errors import ConfigError, StateError
from labkit.model import paths
from labkit.model.complaints import Fault, unknown

#: A DNS label (RFC 1123, section 2.1), in lower case.
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


#: The most bytes of a lab.toml, and a key that takes the parser of TOML minutes.
MOST, LONG = 2**18, re.compile(r"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){99}""")
#: The most bytes of a title in MediaWiki; what the title of the bot's page has after that of the report's.
TITLE, BESIDE = 255, "/labkit state"


def _label(value: object) -> object:
    if not isinstance(value, str) or not LABEL.fullmatch(value):
        raise Fault(
            "label",
            "is no DNS label: lower-case letters, digits and inner hyphens, at most 63 characters",
        )
    return value


def _domain(value: object) -> object:
    if not isinstance(value, str) or not all(LABEL.fullmatch(part) for part in value.split(".")):
        raise Fault("domain", "is no domain name: DNS labels with dots between them")
    if value and value.rpartition(".")[2] != "test":
        raise Fault("domain", "is not below .test, the domain reserved for tests (RFC 6761)")
    return value


def _title(value: str) -> str:
    title = unicodedata.normalize("NFC", value)  # as the wiki has it, also in its answers
    most, length = TITLE - len(BESIDE), len(title.encode())
    if length > most:
        raise Fault(
            "page-length",
            f"has {length} bytes in UTF-8; it may have at most {most}: a wiki's titles end at {TITLE}, and "
            f"labkit also needs the page NAME{BESIDE}",
        )
    return title


Label = Annotated[str, BeforeValidator(_label)]
Port = Annotated[int, Field(ge=1, le=65535)]
Folder = Annotated[str, BeforeValidator(paths.folder)]
Place = Annotated[str, AfterValidator(paths.path)]
Line = Annotated[str, Field(max_length=200), AfterValidator(text.line)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]*$", max_length=100)]
#: Characters of an address (RFC 3986, section 2) that need no quoting anywhere.
ADDRESS = r"[A-Za-z0-9._~:/?@%+=&,\[\]-]"


class Section(BaseModel):
    """A part of the configuration: frozen, and every key is known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Host(Section):
    """Where the host's side lives: '' is the machine's own network namespace, else one of labkit's."""

    netns: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,30})?$")] = ""


class Network(Section):
    """The farm's own IP network; the bridge has its first address."""

    subnet: str = "10.60.0.0/24"


class Rootfs(Section):
    """How the farm's root file system is made; '' as the suite is the machine's own."""

    suite: Annotated[str, Field(pattern=r"^([a-z][a-z0-9-]{0,40})?$")] = ""
    tool: Literal["mmdebstrap", "debootstrap"] = "mmdebstrap"
    variant: Word = "essential"
    packages: tuple[Word, ...] = ()
    mirror: Annotated[str, Field(pattern=rf"^((https?|file)://{ADDRESS}{{1,500}})?$")] = ""


class Dns(Section):
    """The lab's own domain; '' is the lab's name below .test."""

    domain: Annotated[str, BeforeValidator(lambda v: v if v == "" else _domain(v))] = ""


#: Apache's load-balancing methods (mod_lbmethod_*), and what each goes by. apache2's configuration, the comparison
#: of methods and the figures take the methods from here; :func:`labkit.farm.traffic.measurements.expectation` says
#: what a measurement expects of those that do not simply divide the requests by the weights.
Method = Literal["byrequests", "bytraffic", "bybusyness"]
METHODS: Mapping[str, str] = {
    "byrequests": "counts requests",
    "bytraffic": "counts bytes",
    "bybusyness": "counts unfinished requests",
}


class Proxy(Section):
    """The balancer: Apache's load-balancing method, and whether a client stays with its replica."""

    port: Port = 80
    lbmethod: Method = "byrequests"
    sticky: bool = False


class Containers(Section):
    """What a container has of its own: its ids, where the machine can give it some (``auto``), in any case
    (``required``: else nothing is started), or never; and how much its processes may write, in all files."""

    user_namespace: Literal["auto", "required", "off"] = "auto"
    written_mib: Annotated[int, Field(ge=1, le=128)] = 64
    written_files: Annotated[int, Field(ge=64, le=1_000_000)] = 4096


class Traffic(Section):
    """How many requests a measurement sends, and how many at a time."""

    requests: Annotated[int, Field(ge=1, le=100_000)] = 600
    concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    seconds: Annotated[float, Field(gt=0, le=60)] = 3.0


class Wiki(Section):
    """The wiki: one of the lab's own, or an existing one (``url``; its bot password comes from
    the environment: ``LABKIT_WIKI_USER``, ``LABKIT_WIKI_PASSWORD``)."""

    port: Port = 8060
    database: Literal["sqlite", "mariadb"] = "sqlite"
    url: Annotated[
        str, Field(pattern=rf"^(https?://{ADDRESS.replace('@', '')}{{1,500}}/api\.php)?$")
    ] = ""
    assignment: Place = ""
    page: Annotated[
        Line, Field(pattern=r"^[^\[\]{}|#<>/\n.-][^\[\]{}|#<>/\n]*$"), AfterValidator(_title)
    ] = "Report"


class Site(Section):
    """One web site: ``weights`` has a number for each of its replicas ('' colour: by its place)."""

    name: Label
    title: Line = ""
    colour: Annotated[str, Field(pattern=r"^(#[0-9A-Fa-f]{6})?$")] = ""
    replicas: Annotated[int, Field(ge=1, le=200)] | None = None
    weights: tuple[Annotated[int, Field(ge=1, le=100)], ...] = ()


def _named(value: object) -> object:
    """Plain names stand for sites with nothing else said."""
    if isinstance(value, (list, tuple)):
        return tuple({"name": item} if isinstance(item, str) else tuples(item) for item in value)
    return value


class Configuration(Section):
    """All that can be said about a lab; everything has a default."""

    name: Annotated[Label, Field(max_length=24)] = "lab"
    sites: Annotated[tuple[Site, ...], BeforeValidator(_named), Field(min_length=1)] = (
        Site(name="site1"),
        Site(name="site2"),
        Site(name="site3"),
    )
    replicas: Annotated[int, Field(ge=1, le=200)] = 2
    host: Host = Host()
    network: Network = Network()
    rootfs: Rootfs = Rootfs()
    dns: Dns = Dns()
    proxy: Proxy = Proxy()
    containers: Containers = Containers()
    traffic: Traffic = Traffic()
    wiki: Wiki = Wiki()
    outputs: Annotated[str, Field(min_length=1), AfterValidator(paths.path)] = "outputs"
    state: Folder = "/var/lib/labkit"
    cache: Annotated[str, BeforeValidator(lambda v: v if v == "" else paths.folder(v))] = ""
    run: Folder = "/run/labkit"
    offline: bool = False


#: The notebooks' flat parameters, and the key of lab.toml that each one overrides: every key has one.
PARAMETERS: Mapping[str, str] = {
    "lab_name": "name",
    "sites": "sites",
    "replicas": "replicas",
    "netns": "host.netns",
    "subnet": "network.subnet",
    "suite": "rootfs.suite",
    "tool": "rootfs.tool",
    "variant": "rootfs.variant",
    "rootfs_packages": "rootfs.packages",
    "mirror": "rootfs.mirror",
    "domain": "dns.domain",
    "proxy_port": "proxy.port",
    "lbmethod": "proxy.lbmethod",
    "sticky": "proxy.sticky",
    "user_namespace": "containers.user_namespace",
    "written_mib": "containers.written_mib",
    "written_files": "containers.written_files",
    "requests": "traffic.requests",
    "concurrency": "traffic.concurrency",
    "seconds": "traffic.seconds",
    "wiki_port": "wiki.port",
    "wiki_database": "wiki.database",
    "wiki_url": "wiki.url",
    "assignment": "wiki.assignment",
    "wiki_page": "wiki.page",
    "outputs": "outputs",
    "state": "state",
    "cache": "cache",
    "run": "run",
    "offline": "offline",
}


def find_file(name: str, start: Path | None = None) -> Path | None:
    """The nearest file of that name in ``start`` (default: the working folder) or a folder above."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / name).is_file():
            return folder / name
    return None


def project_folder() -> Path:
    """The folder that holds ``notebooks/``: of the working folder's project, else of the clone that
    labkit is installed from, else the working folder."""
    marker = find_file("lab")
    clones = (marker.parent if marker else Path.cwd(), Path(__file__).parents[2])
    return next((clone for clone in clones if (clone / "notebooks").is_dir()), Path.cwd())


def read_toml(path: Path) -> dict[str, Any]:
    """The nested values of a TOML file; :class:`ConfigError` says what is wrong with it."""
    try:
        said = reading.content(path, MOST).decode("utf-8-sig")  # Windows' editors write a mark
        if LONG.search(said):
            raise ValueError("a key has more parts than any that labkit knows")
        return dict(tuples(tomllib.loads(said)))
    except FileNotFoundError:
        raise ConfigError(
            str(path), "there is no such file", "name an existing lab.toml", code="config.no-file"
        ) from None
    except RecursionError:
        raise ConfigError(
            str(path),
            "has values that lie too deeply in each other",
            "correct it",
            code="config.no-toml",
        ) from None
    except ValueError as error:
        raise ConfigError(
            str(path), f"is no TOML: {error}", "correct that line", code="config.no-toml"
        ) from None
    except OSError as error:
        raise StateError(
            str(path),
            f"cannot be read: {error.strerror}",
            "call it with sudo, or name another file: --config FILE",
            f"ls -la {shlex.quote(str(path))}",
            code="state.unreadable",
        ) from None


def overlaid(values: Mapping[str, Any], parameters: Mapping[str, object]) -> dict[str, Any]:
    """Nested ``values`` with flat ``parameters`` laid over them; None is 'not given'."""
    result = {key: dict(item) if isinstance(item, dict) else item for key, item in values.items()}
    for name, value in parameters.items():
        if name not in PARAMETERS:
            raise unknown(name, PARAMETERS, "a parameter")
        section, _, key = PARAMETERS[name].rpartition(".")
        inner = result.setdefault(section, {}) if section else result
        if value is not None and isinstance(inner, dict):
            inner[key] = value
    return result


def tuples(value: Any) -> Any:
    """Lists of TOML and JSON as the tuples that frozen sections hold."""
    if isinstance(value, Mapping):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, (list, tuple)) else value
