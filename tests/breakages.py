"""Machines that are broken, each in a namespace or a folder of the test's own, for the catalogue of errors."""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Concatenate, ParamSpec

from labkit import Lab
from labkit.core import probes, run
from labkit.farm.containers import container, runc
from labkit.farm.network import host
from labkit.farm.rootfs import apt
from labkit.kernel import cgroups
from labkit.kernel.netns import inside
from tests import archives
from tests.conftest import free_port
from tests.host_side import give_address
from tests.projects import Project
from tests.test_host import add_link


@dataclass(frozen=True)
class Broken:
    """How the command is called while something is broken: the words that call it (``before``) and that it
    is given besides, its environment; and what the error must say of this very breakage."""

    before: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    said: tuple[str, ...] = ()


Harm = Callable[[Project], AbstractContextManager[Broken]]
P = ParamSpec("P")


@dataclass(frozen=True)
class Row:
    """A breakage, the command that meets it, its error's code, and words of the error."""

    harm: Harm
    code: str
    words: tuple[str, ...] = ()
    command: tuple[str, ...] = ("apply",)


def with_arguments(
    function: Callable[Concatenate[Project, P], Iterator[Broken]],
) -> Callable[P, Harm]:
    """Makes a breakage of a function with arguments: they are given first, and the project then."""
    managed = contextmanager(function)
    return lambda *given, **named: lambda own: managed(own, *given, **named)


def privately(script: str) -> tuple[str, ...]:
    """The words that call a command in a mount namespace of its own, in which ``script`` was run before."""
    return ("unshare", "--mount", "--", "sh", "-ec", f'{script}\nexec "$@"', "sh")


@with_arguments
def missing(own: Project, program: str, *keys: str) -> Iterator[Broken]:
    """A program is not on the machine: /dev/null lies over it, which is none. HERE in a key's value is the
    project's folder."""
    path = shlex.quote(os.path.realpath(str(run.which(program))))
    words = tuple(word.replace("HERE", str(own.folder)) for word in keys)
    yield Broken(privately(f"mount --bind /dev/null {path}"), words, said=(program,))


@with_arguments
def answering(own: Project, program: str, words: str, status: int | str = 1) -> Iterator[Broken]:
    """A program that says something else than its own words, and ends with a status, or by a signal."""
    end = f"exit {status}" if isinstance(status, int) else f"kill -s {status} $$"
    script = own.folder / program
    script.write_text(f"#!/bin/sh\necho {shlex.quote(words)} >&2\n{end}\n")
    script.chmod(0o755)
    path = shlex.quote(os.path.realpath(str(run.which(program))))
    yield Broken(privately(f"mount --bind {shlex.quote(str(script))} {path}"), said=(words,))


@contextmanager
def without_root(own: Project) -> Iterator[Broken]:
    """Somebody who may read everything and change nothing."""
    yield Broken(
        ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
         "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--"),
        said=("user 65534",),
    )  # fmt: skip


@contextmanager
def unreadable(own: Project) -> Iterator[Broken]:
    """lab.toml is root's alone."""
    own.file.chmod(0o600)
    yield Broken(("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"),
                 said=(str(own.file),))  # fmt: skip


@contextmanager
def without_mounts(own: Project) -> Iterator[Broken]:
    """Root in a container often may not mount."""
    yield Broken(("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"))


@contextmanager
def hidden_groups(own: Project) -> Iterator[Broken]:
    """A new /sys is in the place of the machine's, without what is mounted in that: so does ip-netns(8)."""
    hide = 'umount --lazy /sys && mount -t sysfs sysfs /sys && exec "$@"'
    yield Broken(("unshare", "--mount", "--propagation=private", "sh", "-c", hide, "sh"))


@with_arguments
def file_for(own: Project, name: str) -> Iterator[Broken]:
    """A file stands where one of the lab's folders has to be."""
    (own.folder / name).write_text("mine\n")
    yield Broken(said=(str(own.folder / name),))


@contextmanager
def on_overlay(own: Project) -> Iterator[Broken]:
    """The lab's state lies on an overlay itself, which no overlay can stand on."""
    parts = {name: own.folder / name for name in ("lower", "upper", "scratch", "state")}
    for part in parts.values():
        part.mkdir()
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['scratch']}"
    run.run(["mount", "-t", "overlay", "overlay", "-o", options, parts["state"]])
    try:
        yield Broken(said=(f"cannot be mounted at {parts['state']}",))
    finally:
        run.run(["umount", parts["state"]])


@contextmanager
def read_only(own: Project) -> Iterator[Broken]:
    """The lab's folders are on a file system that is mounted read-only."""
    folder = shlex.quote(str(own.folder))
    yield Broken(privately(f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}"))


@contextmanager
def small(place: Path, size: str) -> Iterator[None]:
    """A small file system, there."""
    place.mkdir()
    run.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "labkit-test", place])
    try:
        yield
    finally:
        run.run(["umount", place])


@contextmanager
def full(own: Project) -> Iterator[Broken]:
    """Nothing can be written any more where the lab's state is."""
    place = own.folder / "state"
    with small(place, "64k"):
        with suppress(OSError), (place / "all").open("wb") as file:
            while True:
                file.write(b"0" * 4096)
                file.flush()
        yield Broken(said=(str(place),))


@contextmanager
def damaged_journal(own: Project) -> Iterator[Broken]:
    """A line in the middle of the journal is somebody's own words."""
    file = own.lab.journal_file
    file.parent.mkdir(parents=True)
    file.write_text('{"seq": 1, "boot": "x", "kind": "netns", "what": {"name": "x"}}\nmine\n{}\n')
    try:
        yield Broken(said=(f"{file}, line 2", "'mine'"))
    finally:
        file.unlink()


@contextmanager
def folder_for_journal(own: Project) -> Iterator[Broken]:
    """A folder stands where the journal has to be."""
    own.lab.journal_file.mkdir(parents=True)
    try:
        yield Broken(said=(str(own.lab.journal_file),))
    finally:
        own.lab.journal_file.rmdir()


@contextmanager
def held(own: Project) -> Iterator[Broken]:
    """Another process works on the lab."""
    file = own.lab.run_dir / "session.lock"
    file.parent.mkdir(parents=True)
    with file.open("w") as holder:
        holder.write(f"{os.getpid()}\n")
        holder.flush()
        fcntl.flock(holder, fcntl.LOCK_EX)
        yield Broken(said=(f"process {os.getpid()}",))


@contextmanager
def taken_subnet(own: Project) -> Iterator[Broken]:
    """An interface of the machine has an address in the lab's subnet."""
    host.up(own.lab)
    add_link(own.lab.netns, "other7", "10.60.0.9/24")
    yield Broken(said=("other7", "10.60.0.0/24"))


@contextmanager
def taken_interface(own: Project) -> Iterator[Broken]:
    """Somebody has a bridge of the name of the lab's."""
    host.up(own.lab)
    run.run(["ip", "link", "add", own.lab.bridge, "type", "bridge"], netns=own.lab.netns)
    yield Broken(said=(f"interface {own.lab.bridge}",))


@contextmanager
def taken_namespace(own: Project) -> Iterator[Broken]:
    """Somebody has a network namespace of the name of a replica's."""
    name = own.lab.farm[0].netns
    run.run(["ip", "netns", "add", name])
    try:
        yield Broken(said=(f"network namespace {name}",))
    finally:
        run.run(["ip", "netns", "del", name])


@contextmanager
def taken_group(own: Project) -> Iterator[Broken]:
    """Somebody's process is in a control group of the lab's name."""
    path = Path("/sys/fs/cgroup/pids", f"labkit-{own.lab.name}")
    path.mkdir()
    process = run.start(["sleep", "300"])
    try:
        (path / "cgroup.procs").write_text(f"{process.pid}\n")
        yield Broken(said=(str(process.pid),))
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        cgroups.remove(f"/labkit-{own.lab.name}")


@with_arguments
def taken_port(own: Project, number: Callable[[Lab], int]) -> Iterator[Broken]:
    """Another process listens on a port of the bridge's address."""
    lab = own.lab
    host.up(lab)
    give_address(lab)
    port = number(lab)
    with inside(lab.netns, socket.create_server, ("0.0.0.0", port)):  # noqa: S104 - the lab's own
        yield Broken(said=(f"(process {os.getpid()})",))


@contextmanager
def taken_wiki_port(own: Project) -> Iterator[Broken]:
    """Another process listens where the wiki is to be."""
    with socket.create_server(("127.0.0.1", own.lab.wiki.port)):
        yield Broken(said=(f"wiki.port = {own.lab.wiki.port}", f"(process {os.getpid()})"))


@with_arguments
def setting(own: Project, /, **keys: str) -> Iterator[Broken]:
    """The lab has these keys besides, in which PORT is one that nobody listens on and HERE its folder."""
    names = {"PORT": str(free_port()), "HERE": str(own.folder)}
    for word, value in names.items():
        keys.update({key: text.replace(word, value) for key, text in keys.items()})
    yield Broken(words=tuple(w for key, text in keys.items() for w in ("-p", key, text)))


@with_arguments
def refusing(own: Project, how: str) -> Iterator[Broken]:
    """The machine's mirror wants a login, has an old list, or is not signed."""
    with archives.serving(own.folder / "archive") as mirror:
        mirror.login = how == "login"
        if how == "old":
            archives.fill(own.folder / "archive/debian", expired=True)
        (own.folder / "apt").mkdir()
        trusted = "" if how == "unsigned" else "[trusted=yes] "
        line = f"deb {trusted}{mirror.address} {apt.codename()} main\n"
        (own.folder / "apt/sources.list").write_text(line)
        hide = "mount -t tmpfs labkit-test /var/lib/apt/lists"
        yield Broken(
            privately(f"{hide}; mount --bind {shlex.quote(str(own.folder))}/apt /etc/apt"),
            words=("-p", "cache", f"{own.folder}/cache"),
            said=(mirror.address,),
        )


@contextmanager
def without_names(own: Project) -> Iterator[Broken]:
    """The machine's resolver answers nothing: its name server is loopback's, where none is."""
    file = own.folder / "resolv.conf"
    file.write_text("nameserver 127.0.0.254\noptions timeout:1 attempts:1\n")
    target = os.path.realpath("/etc/resolv.conf")
    before = privately(f"mount --bind {file} {shlex.quote(target)}")
    words = ("-p", "mirror", "http://mirror.test/debian", "-p", "cache", f"{own.folder}/cache")
    yield Broken(before, words, said=("http://mirror.test/debian",))


@contextmanager
def small_cache(own: Project) -> Iterator[Broken]:
    """The disk of the cache has no room for a root file system."""
    place = own.folder / "cache"
    with small(place, "20m"):
        yield Broken(words=("-p", "cache", str(place)))


@with_arguments
def mounted(own: Project, option: str) -> Iterator[Broken]:
    """The cache lies on a file system that is mounted with an option."""
    place = own.folder / "cache"
    place.mkdir()
    before = privately(f"mount -t tmpfs -o {option} labkit-test {place}")
    yield Broken(before, ("-p", "cache", str(place)))


@with_arguments
def damaged_null(own: Project, script: str) -> Iterator[Broken]:
    """/dev/null is damaged, in a /dev that only the command sees."""
    devices = own.folder / "dev"
    devices.mkdir()
    names = " ".join(f"/dev/{name}" for name in probes.DEVICES)
    yield Broken(privately(
        f"mount -t tmpfs -o mode=755 labkit-test {devices}; cp -a {names} {devices}; "
        f"mount --rbind {devices} /dev; {script}"
    ))  # fmt: skip


MACHINES: dict[str, Row] = {
    "not root": Row(without_root, "machine.not-root", ("provisioning needs root", "sudo")),
    "root may not mount": Row(without_mounts, "machine.overlayfs", ("Operation not permitted", "the right to mount")),
    "the control groups are hidden": Row(hidden_groups, "machine.no-cgroups", ("are not mounted", "`ip netns exec` hides them: use nsenter")),
    "lab.toml is not readable": Row(unreadable, "state.unreadable", ("Permission denied",)),
    "no runc": Row(missing("runc"), "machine.no-program", ("not on the machine", "./lab doctor")),
    "no umoci": Row(missing("umoci"), "machine.no-program", ("not on the machine",)),
    "no ssh-keygen": Row(missing("ssh-keygen"), "machine.no-program", ("not on the machine",)),
    "no dnsmasq": Row(missing("dnsmasq"), "machine.no-program", ("not on the machine",)),
    "no apache2": Row(missing("apache2"), "machine.no-program", ("not on the machine",)),
    "no mmdebstrap": Row(missing("mmdebstrap", "-p", "cache", "HERE/cache"), "machine.no-program", ("not on the machine",)),
    "no apache2 for the wiki": Row(missing("apache2"), "machine.no-program", ("not on the machine", "./lab doctor"), ("publish",)),
    "no mariadb-install-db": Row(missing("mariadb-install-db", "-p", "wiki_database", "mariadb"), "machine.no-program", ("not on the machine",), ("publish",)),
    "the wiki is down": Row(setting(wiki_url="http://127.0.0.1:PORT/w/api.php"), "wiki.down", ("Connection refused", "see that this wiki is up"), ("publish",)),
    "the cache is mounted nodev": Row(mounted("nodev"), "machine.no-builds", ("mount option nodev", "state and cache")),
    "the cache is mounted noexec": Row(mounted("noexec"), "machine.no-builds", ("mount option noexec",)),
    "/dev/null is root's alone": Row(damaged_null("chmod 644 /dev/null"), "machine.device", ("/dev/null", "has the mode 644", "mknod -m 666")),
    "/dev/null is a file": Row(damaged_null("rm /dev/null; : >/dev/null"), "machine.device", ("is not a device",)),
    "state is a file": Row(file_for("state"), "machine.in-the-way", ("Not a directory", "move away")),
    "run is a file": Row(file_for("run"), "machine.in-the-way", ("move away",)),
    "the state lies on an overlay": Row(on_overlay, "machine.overlayfs", ("load the kernel's module", "lab.toml: state")),
    "the lab's folders are read-only": Row(read_only, "machine.read-only", ("Read-only file system",)),
    "the state's disk is full": Row(full, "machine.disk-full", ("No space left", "free space", "set `state` to")),
    "the journal has somebody's words": Row(damaged_journal, "state.journal-damaged", ("not an entry of labkit's journal", "restore the line")),
    "the journal is a folder": Row(folder_for_journal, "state.journal-unusable", ("Is a directory",)),
    "somebody works on the lab": Row(held, "lock.held", ("works on this lab", "wait until it has ended"), ("run", "01-wiki")),
    "the subnet is an interface's": Row(taken_subnet, "machine.subnet-taken", ("already routes", "set network.subnet")),
    "the bridge is somebody's": Row(taken_interface, "state.interface-taken", ("did not make it for this lab", "another lab name")),
    "a namespace is somebody's": Row(taken_namespace, "state.namespace-taken", ("did not make it for this lab",)),
    "the control group is somebody's": Row(taken_group, "state.cgroup-taken", ("did not start for this lab",)),
    "the balancer's port is taken": Row(taken_port(lambda lab: lab.proxy.port), "machine.port-taken", ("proxy.port = 80", "end that process")),
    "the name server's port is taken": Row(taken_port(lambda lab: 53), "machine.port-taken", ("name server's port = 53", "end that process")),
    "the wiki's port is taken": Row(taken_wiki_port, "machine.port-taken", ("set wiki.port",), ("publish",)),
    "the mirror refuses": Row(setting(mirror="http://127.0.0.1:PORT/debian", cache="HERE/cache"), "machine.mirror", ("Connection refused", "set rootfs.mirror")),
    "the mirror wants a login": Row(refusing("login"), "machine.mirror-login", ("it answers 401", "auth.conf.d")),
    "the mirror's list is old": Row(refusing("old"), "machine.mirror-expired", ("is expired", "Check-Valid-Until: no")),
    "the mirror is not signed": Row(refusing("unsigned"), "machine.mirror-signature", ("is not signed", "Signed-By")),
    "no names are resolved": Row(without_names, "machine.mirror", ("does not answer", "check the network")),
    "offline, and nothing is there": Row(setting(offline="true", cache="HERE/cache"), "machine.offline", ("labkit is offline", "without --offline")),
    "no room for a root file system": Row(small_cache, "build.no-space", ("900.0 MB", "free space")),
}  # fmt: skip


# -- a farm that is up ---------------------------------------------------------------------------------------


def killed(own: Project, name: str = "red-1") -> None:
    """A replica's container has ended."""
    container.kill(own.lab, own.lab.replica(name))


@with_arguments
def together(own: Project, *harms: Callable[[Project], object]) -> Iterator[Broken]:
    """Several of them, of which the last one says how the command is called."""
    for first in harms[:-1]:
        first(own)
    last = harms[-1](own)
    assert isinstance(last, AbstractContextManager)
    with last as broken:
        yield broken


@with_arguments
def replaced(own: Project, path: Callable[[Lab], Path], text: str) -> Iterator[Broken]:
    """A file has another text."""
    file = path(own.lab)
    before = file.read_bytes()
    file.write_text(text)
    try:
        yield Broken()
    finally:
        file.write_bytes(before)


def asked(text: str) -> Callable[[Project], None]:
    """lab.toml says something else of the site."""

    def harm(own: Project) -> None:
        own.file.write_text(own.file.read_text().replace('sites = ["red", "blue"]', text))

    return harm


@contextmanager
def groups_read_only(own: Project) -> Iterator[Broken]:
    """The control groups are mounted read-only, as in many a container."""
    script = "for i in $(awk '$3 ~ /^cgroup/ {print $2}' /proc/mounts); do mount -o remount,bind,ro $i; done"
    yield Broken(privately(script))


@with_arguments
def covered(own: Project, path: str, text: str, *, more: bool = False) -> Iterator[Broken]:
    """A file of the first replica's root file system has another text, or ``more`` of it, for the command."""
    file = runc.bundle(own.lab, "red-1") / "rootfs" / path
    other = own.folder / "other"
    other.write_bytes((file.read_bytes() if more else b"") + text.encode())
    other.chmod(0o755)
    yield Broken(privately(shlex.join(["mount", "--bind", str(other), str(file)])))
    other.unlink()


FARM: dict[str, Row] = {
    "runc refuses": Row(together(killed, answering("runc", "cannot allocate memory")), "farm.container-refused", ("container red-1", "status 1", "cannot allocate memory")),
    "a container's first process dies": Row(together(killed, covered("etc/apache2/apache2.conf", "Nonsense on\n", more=True)), "farm.container-died", ("container red-1", "exit status 1", "Syntax error on line", "Nonsense")),
    "a container's program is none": Row(together(killed, covered("usr/sbin/apache2", "mine\n")), "farm.container-died", ("container red-1", "exec format error")),
    "the control groups are read-only": Row(together(killed, groups_read_only), "machine.cgroups-read-only", ("read-only", "mount them writable")),
    "the balancer's configuration is refused": Row(answering("apache2", "Syntax error in it"), "farm.configuration-refused", ("Syntax error in it", "left as it is"), ("apply", "-p", "lbmethod", "bybusyness")),
    "the name server's configuration is refused": Row(answering("dnsmasq", "bad option in it"), "farm.configuration-refused", ("bad option in it", "left as it is"), ("apply", "-p", "domain", "other.test")),
    "runc is killed": Row(together(killed, answering("runc", "to work", "KILL")), "farm.container-refused", ("container red-1", "signal 9", "memory ran out")),
    "a configuration's test is killed": Row(answering("apache2", "to work", "KILL"), "command.failed", ("apache2", "signal 9", "memory ran out"), ("apply", "-p", "lbmethod", "bybusyness")),
    "umoci fails": Row(together(asked('sites = [{name = "red", colour = "#123456"}, "blue"]'), answering("umoci", "umoci: not today")), "build.failed", ("umoci", "exit status 1", "not today")),
    "a key is damaged": Row(replaced(lambda lab: lab.state_dir / "ssh" / "student", "mine\n"), "state.damaged-key", ("not an ssh key", "move it away")),
}  # fmt: skip
