"""The configuration: the sections of ``lab.toml``, the notebooks' parameters, their checks, and the errors' words.

:func:`read_toml` reads ``lab.toml``; nothing else here touches a file but the search for it.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from labkit import reading
from labkit.display import line, quoted
from labkit.errors import ConfigError, StateError

#: The exception that a check of the configuration raises: the last part of the error's code, and the message.
Fault = PydanticCustomError
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
            "is not a DNS label: use lower-case letters, digits and inner hyphens, at most 63 characters",
        )
    return value


def _domain(value: object) -> object:
    if not isinstance(value, str) or not all(LABEL.fullmatch(part) for part in value.split(".")):
        raise Fault("domain", "is not a domain name: write DNS labels with dots between them")
    if value and value.rpartition(".")[2] != "test":
        raise Fault(
            "domain", "is not below .test, the domain that is reserved for tests (RFC 6761)"
        )
    return value


def _title(value: str) -> str:
    title = unicodedata.normalize("NFC", value)  # as the wiki has it, also in its answers
    most, length = TITLE - len(BESIDE), len(title.encode())
    if length > most:
        raise Fault(
            "page-length",
            f"has {length} bytes in UTF-8; at most {most} are allowed: a wiki's titles have at most {TITLE}, and "
            f"labkit also needs the page NAME{BESIDE}",
        )
    return title


#: Folders of the operating system, in which labkit makes nothing.
SYSTEM = (
    "/etc", "/proc", "/sys", "/dev", "/boot",
    "/bin", "/sbin", "/lib", "/lib32", "/lib64",
    "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share",
)  # fmt: skip
#: Folders below them that every user may write.
EVERYBODYS = ("/dev/shm",)  # noqa: S108 - not used, but allowed
#: Characters with a special meaning in apache2's configuration, rotatelogs' names or overlayfs' options.
MEANING = frozenset("\"'\\$%,:")
#: The most bytes of a file's name (Linux), and of a configured path: the lab's names below it must still fit.
NAME, PATH = 255, 1024


def path(value: str) -> str:
    """Returns the text of a path: one line, not longer than Linux allows. Pure."""
    line(value)
    if len(value.encode()) > PATH or any(len(p.encode()) > NAME for p in value.split("/")):
        raise Fault("path", f"is too long: at most {NAME} bytes for a name, {PATH} for all of it")
    return value


def folder(value: object) -> object:
    """Returns an absolute folder whose name needs no quoting in any file or option. Pure."""
    parsed = PurePosixPath(value) if isinstance(value, str) else PurePosixPath()
    if (
        not parsed.is_absolute()
        or ".." in parsed.parts
        or len(parsed.parts) < 2
        or "\0" in str(parsed)
    ):
        raise Fault("folder", "is not the absolute path of a folder below /, without '..'")
    if found := MEANING.intersection(path(str(value))):
        raise Fault(
            "folder", f"contains {min(found)}, which has a special meaning for other programs"
        )
    return value


def _command(value: str) -> str:
    try:
        shlex.split(value)
    except ValueError as error:
        raise Fault("command", f"is no command line: {str(error).lower()}") from None
    return line(value)


Label = Annotated[str, BeforeValidator(_label)]
Port = Annotated[int, Field(ge=1, le=65535)]
Folder = Annotated[str, BeforeValidator(folder)]
Place = Annotated[str, AfterValidator(path)]
Line = Annotated[str, Field(max_length=200), AfterValidator(line)]
Command = Annotated[str, Field(max_length=500), AfterValidator(_command)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]*$", max_length=100)]
#: Characters of an address (RFC 3986, section 2) that need no quoting anywhere.
ADDRESS = r"[A-Za-z0-9._~:/?@%+=&,\[\]-]"


class Section(BaseModel):
    """A part of the configuration: frozen, and every key is known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Host(Section):
    """The host's side of the lab: bridge, name server, balancer, browser and load."""

    netns: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,30})?$")] = ""
    """A network namespace that labkit makes for the host's side; "" is the machine's."""


class Network(Section):
    """The farm's own IP network."""

    subnet: str = "10.60.0.0/24"
    """A private network (RFC 1918). The bridge has its first address."""


class Rootfs(Section):
    """How the farm's root file system is made."""

    suite: Annotated[str, Field(pattern=r"^([a-z][a-z0-9-]{0,40})?$")] = ""
    """The Debian release, such as "trixie"; "" is the machine's."""
    tool: Literal["mmdebstrap", "debootstrap"] = "mmdebstrap"
    """The program that makes it."""
    variant: Word = "essential"
    """The variant by which it is made, such as "smallest"."""
    packages: tuple[Word, ...] = ()
    """Further Debian packages that it contains."""
    mirror: Annotated[str, Field(pattern=rf"^((https?|file)://{ADDRESS}{{1,500}})?$")] = ""
    """Where packages come from; "" is the machine's apt configuration."""


class Dns(Section):
    """The lab's own domain."""

    domain: Annotated[str, BeforeValidator(lambda v: v if v == "" else _domain(v))] = ""
    """A domain below .test (RFC 6761); "" is NAME.test."""


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
    """The balancer."""

    port: Port = 80
    """The port on which it answers, on the bridge's address."""
    lbmethod: Method = "byrequests"
    """Apache's load-balancing method."""
    sticky: bool = False
    """Whether a client stays with its replica, by a cookie."""


class Containers(Section):
    """What a container has and may use."""

    user_namespace: Literal["auto", "required", "off"] = "auto"
    """Whether a container has user ids of its own: where the machine can do it, always (else nothing starts), never."""
    written_mib: Annotated[int, Field(ge=1, le=128)] = 64
    """How much its processes may write, logs and output in all, in MiB; at most half of its memory."""
    written_files: Annotated[int, Field(ge=64, le=1_000_000)] = 4096
    """In how many files."""


class Traffic(Section):
    """What a measurement sends."""

    requests: Annotated[int, Field(ge=1, le=100_000)] = 600
    """How many requests in all."""
    concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    """How many at a time."""
    seconds: Annotated[float, Field(gt=0, le=60)] = 3.0
    """How long a measurement of throughput lasts, in seconds."""


class Engine(Section):
    """A container engine on several machines, to which the lab is deployed besides."""

    host: Annotated[str, Field(pattern=rf"^((unix|tcp|ssh)://{ADDRESS}{{1,500}})?$")] = ""
    """Where a swarm's manager answers: unix:///run/docker.sock, ssh://USER@HOST or tcp://HOST:PORT."""
    context: Line = ""
    """Which of the kubeconfig's contexts names the Kubernetes cluster; "" is its current one."""
    registry: Annotated[
        str,
        Field(
            pattern=r"^((http://)?[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*)?$",
            max_length=200,
        ),
    ] = ""
    """The registry that the nodes pull from, HOST:PORT[/PREFIX], http:// before it when it has no TLS; "" starts one of the
    lab's own."""
    lose: Command = ""
    """A command that makes a node fail, such as "ssh node3 sudo systemctl stop docker", for the experiment; "" drains one."""
    restore: Command = ""
    """The command that undoes `lose`."""


class Wiki(Section):
    """The wiki: one that labkit makes, or an existing one. The bot password of an existing wiki comes from the
    environment: ``LABKIT_WIKI_USER``, ``LABKIT_WIKI_PASSWORD``."""

    port: Port = 8060
    """The port of the lab's own wiki, on the loopback address."""
    database: Literal["sqlite", "mariadb"] = "sqlite"
    """The database of the lab's own wiki."""
    url: Annotated[
        str, Field(pattern=rf"^(https?://{ADDRESS.replace('@', '')}{{1,500}}/api\.php)?$")
    ] = ""
    """The address of an existing wiki's api.php; "" makes one."""
    assignment: Place = ""
    """A file of wikitext that is the page Assignment; "" is labkit's own."""
    page: Annotated[
        Line, Field(pattern=r"^[^\[\]{}|#<>/\n.-][^\[\]{}|#<>/\n]*$"), AfterValidator(_title)
    ] = "Report"
    """The title of the report's page."""


class Site(Section):
    """One web site."""

    name: Label
    """The site's name, a DNS label."""
    title: Line = ""
    """The heading of its page; "" is made from its number and name."""
    colour: Annotated[str, Field(pattern=r"^(#[0-9A-Fa-f]{6})?$")] = ""
    """The colour of its page and in figures, #rrggbb; "" is chosen by its number."""
    replicas: Annotated[int, Field(ge=1, le=200)] | None = None
    """Its number of replicas, where it is not the lab's `replicas`."""
    weights: tuple[Annotated[int, Field(ge=1, le=100)], ...] = ()
    """A weight for each of its replicas: its share of the requests."""


def _named(value: object) -> object:
    """Replaces plain names by sites with default values."""
    if isinstance(value, (list, tuple)):
        return tuple({"name": item} if isinstance(item, str) else tuples(item) for item in value)
    return value


class Configuration(Section):
    """The lab as a whole."""

    name: Annotated[Label, Field(max_length=24)] = "lab"
    """The lab's name, a DNS label: in the names of its interfaces, namespaces and folders."""
    sites: Annotated[tuple[Site, ...], BeforeValidator(_named), Field(min_length=1)] = (
        Site(name="site1"),
        Site(name="site2"),
        Site(name="site3"),
    )
    """The web sites: names, or a table `[[sites]]` for each."""
    replicas: Annotated[int, Field(ge=1, le=200)] = 2
    """How many replicas (containers) each site has."""
    host: Host = Host()
    network: Network = Network()
    rootfs: Rootfs = Rootfs()
    dns: Dns = Dns()
    proxy: Proxy = Proxy()
    containers: Containers = Containers()
    traffic: Traffic = Traffic()
    wiki: Wiki = Wiki()
    engine: Engine = Engine()
    outputs: Annotated[str, Field(min_length=1), AfterValidator(path)] = "outputs"
    """The folder for what a person reads, from lab.toml's folder."""
    state: Folder = "/var/lib/labkit"
    """The folder for what outlives a boot: images, the wiki's data, the journal."""
    cache: Annotated[str, BeforeValidator(lambda v: v if v == "" else folder(v))] = ""
    """The folder that labs share: packages, root file systems; "" is `.cache` in the state folder."""
    run: Folder = "/run/labkit"
    """The folder for what a boot ends: mounts, sockets, runC's state."""
    offline: bool = False
    """Whether no mirror may be asked."""


#: Keys that several sections may have, or that say nothing without it: their flat parameter begins with the section.
SHARED = ("database", "host", "lose", "packages", "page", "port", "registry", "restore", "url")


def _parameters() -> Iterator[tuple[str, str]]:
    yield "lab_name", "name"
    for key, field in Configuration.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for inner in section.model_fields:
                yield f"{key}_{inner}" if inner in SHARED else inner, f"{key}.{inner}"
        elif key != "name":
            yield key, key


#: The notebooks' flat parameters, and the key of lab.toml that each one overrides: every key has one.
PARAMETERS: Mapping[str, str] = dict(_parameters())


def find_file(name: str) -> Path | None:
    """The nearest file of that name in the working folder or a folder above."""
    here = Path.cwd().resolve()
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
            raise ValueError("a key has more parts than labkit knows")
        return dict(tuples(tomllib.loads(said)))
    except FileNotFoundError:
        raise ConfigError(
            str(path),
            "there is no such file",
            "give the name of an existing lab.toml",
            code="config.no-file",
        ) from None
    except (RecursionError, ValueError) as error:
        deep = isinstance(error, RecursionError)
        reason = "its values are nested too deeply" if deep else f"it is not valid TOML: {error}"
        raise ConfigError(str(path), reason, "correct that line", code="config.no-toml") from None
    except OSError as error:
        raise StateError(
            str(path),
            f"cannot be read: {error.strerror}",
            "run it with sudo, or choose another file: --config FILE",
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


#: The last parts of codes, by pydantic's own kinds of complaints; a :data:`Fault` has its own.
KINDS = {
    "greater_than": "range", "greater_than_equal": "range", "less_than": "range", "less_than_equal": "range",
    "too_short": "length", "too_long": "length", "string_too_short": "length", "string_too_long": "length",
    "string_pattern_mismatch": "pattern", "string_unicode": "text", "literal_error": "choice", "missing": "missing-key",
    "extra_forbidden": "unknown-key", "value_error": "value",
}  # fmt: skip


def unknown(name: str, known: Mapping[str, object] | set[str], what: str) -> ConfigError:
    """The error for an unknown name, with the most similar known one."""
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    guess = f"did you mean {quoted(near[0])}? " if near else ""
    return ConfigError(
        quoted(name),
        f"is not {what}",
        f"{guess}known names: {', '.join(sorted(known))}",
        code="config.unknown-name",
    )


def explain(
    error: ValidationError,
    source: str,
    model: type[BaseModel],
    parameters: Mapping[str, object],
    keys: Mapping[str, str],
) -> ConfigError:
    """Pydantic's first complaint about a ``model`` as labkit's own error: read from ``source``, or one of
    the flat ``parameters`` that override it, each the one of ``keys``."""
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    if first["loc"]:
        *path, key = first["loc"]
        where = ".".join(str(part) for part in (*path, key))
    else:  # a check across fields begins with the one that it is about
        path, (where, _, reason) = [], reason.partition(": ")
        key = where
    for name, value in parameters.items():
        if value is not None and f"{where}.".startswith(f"{keys[name]}."):
            source = f"the parameter {name}"
    if first["type"] == "extra_forbidden":
        wrong = unknown(str(key), _section(model, path).model_fields, "a known key")
        return ConfigError(
            f"{where} in {source}", wrong.reason, wrong.remedy, code="config.unknown-key"
        )
    plain = isinstance(first["input"], (str, int, float, bool, tuple)) or first["input"] is None
    given = f" = {without_password(quoted(first['input']))}" if plain else ""
    kind = first["type"]
    code = "type" if kind.endswith(("_type", "_parsing")) else KINDS.get(kind, kind)
    return ConfigError(
        f"{where}{given} in {source}", reason, "correct this value", code=f"config.{code}"
    )


def without_password(text: str) -> str:
    """The text without user names and passwords in addresses."""
    return re.sub(r"(?<=://)[^/@\s]+@", "...@", text)


def _section(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel]:
    """The model that a path of keys and places leads to: ``("sites", 0)`` is a :class:`Site`."""
    for key in path:
        if isinstance(key, str):
            kind: Any = model.model_fields[key].annotation
            model = kind if isinstance(kind, type) else get_args(kind)[0]
    return model


def resolved(base: Path, value: object) -> object:
    """A path relative to ``base`` as an absolute one; a value that is not a path is returned unchanged, and refused later."""
    if not isinstance(value, str):
        return value
    try:
        return str((base / value).resolve())
    except (OSError, RuntimeError, ValueError):  # too long, links in a ring, a zero byte
        return value


def require_apart(folders: Mapping[str, Path]) -> None:
    """Raises :class:`ConfigError` for a folder (by its key) that is one of the system's folders or below one, also through
    links."""
    for key, place in folders.items():
        real = f"{os.path.realpath(place)}/"
        if real.startswith(tuple(f"{name}/" for name in EVERYBODYS)):
            continue
        if real.startswith(tuple(f"{name}/" for name in SYSTEM)):
            raise ConfigError(
                f"{key} = {quoted(str(place))}",
                f"leads to {real[:-1]}, a folder of the operating system",
                f"set {key} to another folder, or remove the link",
                f"readlink -f {place}",
                code="config.folder-system",
            )
