"""Hostile files in the place of each that labkit reads: an error of its own, or the file counts as none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit import Lab, reading
from labkit.core import cache, undo
from labkit.core.files import proven, text_of
from labkit.core.journal import Journal
from labkit.errors import LabkitError
from labkit.farm.containers import lab_namespaces, overlay, runc
from labkit.farm.images import (
    builder,
    layout,
    store,
    umoci_steps,
)
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.network import firewall
from labkit.model import addresses
from labkit.report.batch import notebook
from labkit.report.site import discussion
from labkit.report.stages import build_cache, record, signing
from labkit.wiki.client import session
from labkit.wiki.publish import last_written, prepared
from labkit.wiki.remarks import listing as remarks
from labkit.wiki.server import installation
from labkit.wiki.server.configuration import Folders

Harm = Callable[[Path], object]
Reader = Callable[[Path], object]

DEEP = 100_000


def _huge(path: Path) -> None:
    """More than labkit reads of a file; it takes no room."""
    with path.open("wb") as file:
        file.write(b'{"a": "')
        file.truncate(reading.MOST + 10)


def _link(path: Path, target: str) -> None:
    path.symlink_to(target)


#: What is in a file's place. Deep ones were RecursionErrors, a pipe waited for ever, an endless file took all memory.
HARMS: dict[str, Harm] = {
    "deep lists": lambda path: path.write_text("[" * DEEP + "]" * DEEP),
    "deep objects": lambda path: path.write_text('{"a":' * DEEP + "1" + "}" * DEEP),
    "deep lists that end": lambda path: path.write_text("[" * DEEP),
    "deep in a plain object": lambda path: path.write_text('{"a": ' + "[" * 500 + "]" * 500 + "}"),
    "as deep as may be": lambda path: path.write_text('{"a": ' + "[" * 99 + "]" * 99 + "}"),
    "brackets in a text": lambda path: path.write_text(json.dumps({"a": '\\"[{' * DEEP})),
    "huge": _huge,
    "nothing": lambda path: path.write_text(""),
    "null": lambda path: path.write_text("null"),
    "a list": lambda path: path.write_text("[]"),
    "a list of numbers": lambda path: path.write_text("[1, 2]"),
    "a number": lambda path: path.write_text("5"),
    "an endless number": lambda path: path.write_text("9" * 100_000),
    "a text": lambda path: path.write_text('"text"'),
    "an empty object": lambda path: path.write_text("{}"),
    "infinity": lambda path: path.write_text('{"init_process_pid": 1e999, "init_process_start": Infinity}'),
    "half a character": lambda path: path.write_text('{"a": "\\ud800"}'),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "an endless device": lambda path: _link(path, "/dev/zero"),
    "a link to itself": lambda path: _link(path, path.name),
}  # fmt: skip


def lab(folder: Path) -> Lab:
    """A lab whose folders are there and empty."""
    made = Lab.of({
        "state": str(folder / "state"), "run": str(folder / "run"), "outputs": str(folder / "outputs"),
        "cache": str(folder / "cache"),
    })  # fmt: skip
    for place in (made.state_dir / "unpacked", made.run_dir, made.output_dir / "results"):
        place.mkdir(parents=True, exist_ok=True)
    return made


def _configuration(path: Path) -> object:
    return overlay.image_configuration(Unpacked(tag="x", lower=(), config=path))


#: Where labkit reads, below a lab's folders, and what reads it.
READERS: dict[str, tuple[Callable[[Lab], Path], Callable[[Lab, Path], object]]] = {
    "lab.toml": (lambda x: x.state_dir / "lab.toml", lambda x, p: Lab.load(p)),
    "journal": (lambda x: x.journal_file, lambda x, p: Journal.of(x).standing()),
    "journal, leniently": (lambda x: x.journal_file, lambda x, p: Journal.of(x, lenient=True).standing()),
    "addresses": (lambda x: x.addresses_file, lambda x, p: addresses.remembered(p)),
    "index of a layout": (lambda x: x.state_dir / "index.json", lambda x, p: store.tags(p.parent)),
    "manifest": (lambda x: store.blob(x.state_dir, "sha256:0"), lambda x, p: store.manifest(x.state_dir, "sha256:0")),
    "image configuration": (lambda x: store.blob(x.state_dir, "sha256:0"), lambda x, p: store.config(x.state_dir, "sha256:0")),
    "record of the image": (lambda x: builder.place(x) / "image.json", lambda x, p: builder.record(x)),
    "images found": (lambda x: x.state_dir / "unpacked/found.json", lambda x, p: layout.remembered(x)),
    "umoci.json": (lambda x: x.state_dir / "umoci.json", lambda x, p: umoci_steps.read_bundle(p.parent)),
    "runtime configuration": (lambda x: x.state_dir / "config.json", lambda x, p: _configuration(p)),
    "config.json": (lambda x: x.state_dir / "config.json", lambda x, p: runc.config(p.parent)),
    "runC's state": (lambda x: runc.root(x) / "red-1/state.json", lambda x, p: runc.state(x, "red-1")),
    "runC's state, taking down": (lambda x: x.run_dir / "state.json", lambda x, p: undo._runs(p.parent)),
    "ids": (lambda x: lab_namespaces._file(x.state_dir), lambda x, p: lab_namespaces.recorded(x.state_dir)),
    "tables of nftables": (firewall._file, lambda x, p: firewall._made(x)),
    "list of sealed files": (lambda x: x.state_dir / ".sealed", lambda x, p: cache.damage(p.parent)),
    "kept result": (lambda x: x.state_dir / "evidence.json", lambda x, p: proven(p)),
    "any text": (lambda x: x.state_dir / "x", lambda x, p: text_of(p)),
    "record of a stage": (lambda x: record.file(x, "02-rootfs"), lambda x, p: record.read(x, "02-rootfs")),
    "record that a batch waits for": (lambda x: record.pending(x, "02-rootfs", "r"), lambda x, p: record.read_pending(x, "02-rootfs", "r")),
    "manifest of the outputs": (lambda x: x.output_dir / "manifest.json", lambda x, p: signing.seal(x.output_dir)),
    "lab's key": (lambda x: x.state_dir / signing.KEY, lambda x, p: signing.key(x)),
    "memory": (build_cache.cache_file, lambda x, p: build_cache.recall(x)),
    "remarks of the review": (discussion.file, lambda x, p: discussion.last(x)),
    "remarks as read": (lambda x: x.state_dir / "r.json", lambda x, p: remarks._read(p, "bot")),
    "executed notebook": (lambda x: x.state_dir / "n.ipynb", lambda x, p: record.read_notebook(p)),
    "notebook": (lambda x: x.state_dir / "n.ipynb", lambda x, p: notebook.require(p)),
    "pristine blocks": (lambda x: x.state_dir / "p.txt", lambda x, p: last_written.read_local(p)),
    "wiki's passwords": (lambda x: Folders(x).passwords, lambda x, p: session.passwords(x)),
    "wiki's installation": (lambda x: Folders(x).installed, lambda x, p: installation._recorded(Folders(x))),
    "wiki's pages": (lambda x: Folders(x).pages, lambda x, p: prepared._read(p)),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("reader", READERS)
def test_whatever_lies_there_is_told_or_is_none(
    tmp_path: Path, reader: str, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, with value, reason, remedy and code; never a fault of labkit's own."""
    monkeypatch.setattr(runc, "_asked", lambda xab, name: None)  # runC itself
    own = lab(tmp_path)
    find, read = READERS[reader]
    path = find(own)
    path.parent.mkdir(parents=True, exist_ok=True)
    HARMS[harm](path)
    try:
        read(own, path)
    except LabkitError as error:
        told = error.record
        assert all(told[part] for part in ("code", "value", "reason", "remedy")), told
        assert told["code"] != "labkit.error"
        assert len(str(error)) < 2000


def test_what_is_deep_is_refused_and_what_is_not_is_read() -> None:
    """By the depth alone: not by how many lists there are, nor by brackets in a text."""
    wide = [[[number, "[" * 1000]] for number in range(10_000)]
    assert reading.parsed(json.dumps(wide)) == wide
    assert reading.parsed("[" * 100 + "]" * 100)
    with pytest.raises(ValueError, match="recursion limit"):
        reading.parsed("[" * 1000 + "]" * 1000)


TOML = {
    "deep lists": "sites = " + "[" * DEEP + "]" * DEEP,
    "lists within the parser's depth": "sites = " + "[" * 400 + "]" * 400,
    "deep tables": "sites = " + "{a=" * DEEP + "1" + "}" * DEEP,
    "an endless key": "a." * 50_000 + "b = 1",
    "an endless key of a table": "[" + "a." * 50_000 + "b]",
    "an endless key in a table": "x = {" + "a . " * 20_000 + "b = 1}",
    "a key of a hundred parts": "a." * 99 + "b = 1",
    "a huge file": "# " + "x" * 300_000,
    "an endless number": "replicas = " + "9" * 100_000,
    "a float that is none": "replicas = nan",
    "an infinite time": "traffic.seconds = inf",
    "a date": "replicas = 2024-01-01",
    "a table for a text": "[name]\na = 1",
    "a list of lists": "sites = [[[1]]]",
    "a text for a table": 'wiki = "x"',
    "a list for a table": "wiki = [1]",
    "NUL in a text": 'wiki.page = "a\\u0000b"',
}  # fmt: skip


@pytest.mark.parametrize("case", TOML)
def test_a_hostile_lab_toml_is_refused(tmp_path: Path, case: str) -> None:
    """In no time, with the remedy."""
    path = tmp_path / "lab.toml"
    path.write_text(TOML[case])
    with pytest.raises(LabkitError) as caught:
        Lab.load(path)
    assert caught.value.code.startswith("config.")
    assert caught.value.remedy
    assert len(str(caught.value)) < 2000


def test_the_kernel_s_own_files_are_read() -> None:
    """Of /proc/sys it gives nothing to who asks for much at a time."""
    for path in ("/proc/sys/kernel/pid_max", "/proc/self/status", "/proc/sys/net/ipv4/ip_forward"):
        assert reading.text(Path(path)) == Path(path).read_text()
