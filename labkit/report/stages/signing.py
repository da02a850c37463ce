"""Signs the outputs: the lab's key, the manifest with every file's hash, and writing whole parts that stay signed.

Every file that belongs to a run (``FOLDERS``) is listed in ``manifest.json`` with its SHA-256, by parts: what one
stage left, what its failure left, the review site. Stages' records and the manifest are signed with Ed25519 by a
key in the lab's state folder that its owner alone can read. Only what labkit has just made gets into the
manifest; hashes of other parts are taken over from the one before, never from the files as they are found.

A part is written as a whole: its files and the manifest are laid down in ``.next`` first, from where a call that
comes after a killed one moves the rest.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError, field_validator

from labkit import reading as bounded
from labkit.core import cache, files
from labkit.core.files import beside, folder_in_place, put, write_atomically
from labkit.core.journal import not_root
from labkit.errors import MachineError, StateError
from labkit.model.lab import Lab
from labkit.records import Record

#: The lab's private key (its 32 bytes in hexadecimal) and its public one, in the lab's state folder.
KEY, PUBLIC = "signing.key", "signing.pub"
MANIFEST, NEXT = "manifest.json", ".next"
#: The folders of the outputs whose files belong to a run.
FOLDERS = ("results", "tables", "figures", "notebooks", "review")
#: What is in them and belongs to none: the remarks as they were last read.
OUTSIDE = frozenset({"results/remarks.json"})


class Part(Record):
    """The files that were written together, each with its SHA-256, and the run that they are of."""

    run: str
    files: dict[str, str]

    @field_validator("files")
    @classmethod
    def _within(cls, files: dict[str, str]) -> dict[str, str]:
        """No manifest, whoever signed it, leads out of the outputs."""
        for name in files:
            path = PurePosixPath(name)
            if (
                ".." in path.parts
                or path.parts[:1] not in {(f,) for f in FOLDERS}
                or str(path) != name
            ):
                raise ValueError(f"{name!r} is not a file of a run")
        return files


class Manifest(Record):
    """The parts of a lab's outputs, by name: a stage, a stage with ``.failed``, ``review``."""

    lab: str
    parts: dict[str, Part] = Field(default_factory=dict)

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of each file."""
        return {name: hashed for part in self.parts.values() for name, hashed in part.files.items()}


@dataclass(frozen=True)
class Seal:
    """What can be relied on in a folder of outputs: the public key whose signatures count ('' for none), and the
    manifest; ``reason`` says why there is none."""

    folder: Path
    key: str
    manifest: Manifest
    reason: str = ""

    def read(self, name: str) -> bytes | None:
        """A file, if it is as it was signed."""
        hashed = self.manifest.files.get(name)
        data = content(self.folder / name) if hashed else None
        return data if data is not None and digest(data) == hashed else None


@dataclass(frozen=True)
class New:
    """A part as a run has just made it; a file without data stays as it is, if it is signed."""

    run: str
    files: Mapping[str, bytes | None]


def content(path: Path) -> bytes | None:
    """A file's bytes; None when they cannot be read."""
    try:
        return bounded.content(path)
    except (OSError, ValueError):
        return None


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def content_digest(content: object) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return digest(
        json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    )


# -- the key -----------------------------------------------------------------------------------


def key(lab: Lab) -> Ed25519PrivateKey:
    """The lab's private key, made when there is none yet; raises :class:`MachineError` for who may not read it,
    :class:`StateError` when it is damaged."""
    path = lab.state_dir / KEY
    try:
        with files.usual_umask():
            if not os.path.lexists(path):
                _make(path, Ed25519PrivateKey.generate().private_bytes_raw().hex())
            found = _private(path)
            if public(lab) != (said := _public_hex(found)):
                write_atomically(lab.state_dir / PUBLIC, f"{said}\n")
    except PermissionError:
        raise not_root(str(path)) from None
    return found


def _private(path: Path) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(bounded.text(path)))
    except PermissionError:
        raise
    except (OSError, ValueError):
        raise StateError(
            str(path),
            "is not a key of labkit",
            "move it away; the next rebuild makes a new one and runs every stage again",
            f"ls -la {path}",
            code="state.damaged-key",
        ) from None


def _public_hex(private: Ed25519PrivateKey) -> str:
    return private.public_key().public_bytes_raw().hex()


def public(lab: Lab) -> str:
    """The lab's public key in hexadecimal, '' when this machine has none."""
    return (files.text_of(lab.state_dir / PUBLIC) or "").strip()


def _make(path: Path, text: str) -> None:
    """Writes the file, for its owner alone, unless another process was faster; never in part."""
    part = beside(path)
    try:
        write_atomically(part, f"{text}\n", mode=0o600)
        with suppress(FileExistsError):
            os.link(part, path)
    finally:
        part.unlink(missing_ok=True)


# -- signed texts ------------------------------------------------------------------------------


def signed(lab: Lab, kind: str, content: dict[str, Any]) -> str:
    """A JSON object with its hash, the public key and the signature, as the text of a file."""
    own = key(lab)
    hashed = content_digest(content)
    signature = own.sign(_message(kind, hashed)).hex()
    head = {"sha256": hashed, "key": _public_hex(own), "signature": signature}
    return json.dumps({**head, **content}, indent=1, ensure_ascii=False) + "\n"


def opened(text: str, kind: str, trusted: str) -> tuple[dict[str, Any], str]:
    """The content of such a text, and the key that signed it; :class:`ValueError` says what is wrong with it.

    :param trusted: the public key that must have signed it; '' for any.
    """
    content = bounded.parsed(text)
    if not isinstance(content, dict):
        raise ValueError("is not a JSON object")
    noted, signer, signature = (content.pop(name, "") for name in ("sha256", "key", "signature"))
    if not noted:
        raise ValueError("has no hash")
    if noted != (hashed := content_digest(content)):
        raise ValueError("was changed after labkit wrote it: its content does not have its hash")
    if not signature:
        raise ValueError("is not signed: an earlier labkit wrote it")
    if trusted and signer != trusted:
        raise ValueError(f"is signed by another key ({signer}), not by this lab's ({trusted})")
    try:
        public_key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer))
        public_key.verify(bytes.fromhex(signature), _message(kind, hashed))
    except (InvalidSignature, ValueError, TypeError):
        raise ValueError(
            "was changed after labkit signed it: the signature is not of its content"
        ) from None
    return content, signer


def _message(kind: str, hashed: str) -> bytes:
    """What is signed: a record can never stand for a manifest."""
    return f"labkit {kind} {hashed}".encode()


# -- the outputs -------------------------------------------------------------------------------


@contextmanager
def reading(lab: Lab) -> Iterator[Seal]:
    """What can be relied on in the lab's outputs; no process writes a part of them while the block runs."""
    with _held(lab.output_dir) if lab.output_dir.is_dir() else nullcontext():
        _settle(lab)
        yield seal(lab.output_dir, public(lab), lab.name)


def read(lab: Lab, name: str) -> bytes | None:
    """A file of the outputs, by its path in them; None when it is gone or not as it was signed."""
    with reading(lab) as found:
        return found.read(name)


def seal(folder: Path, trusted: str = "", name: str = "") -> Seal:
    """What can be relied on in a folder of outputs: the manifest, if the key ``trusted`` has signed it (any key if
    ''), and if it is of the lab ``name`` (of any if '')."""
    try:
        content, signer = opened(bounded.text(folder / MANIFEST), "manifest", trusted)
        found = Manifest.model_validate(content)
        if not name or found.lab == name:
            return Seal(folder, signer, found)
        reason = f"is of the lab {found.lab!r}, not of {name!r}"
    except FileNotFoundError:
        reason = "is missing: these outputs are not signed"
    except OSError as error:
        reason = f"cannot be read ({error})"
    except (bounded.NoJsonError, UnicodeDecodeError, ValidationError) as error:
        reason = f"is not a manifest ({str(error).splitlines()[0]})"
    except ValueError as error:
        reason = str(error)
    return Seal(folder, trusted, Manifest(lab=name), reason)


def commit(
    lab: Lab, parts: Mapping[str, New | None], strays: Iterable[str] = (), *, anew: bool = True
) -> bool:
    """Each of these parts of the outputs is there as it is given, or gone (None), and signed; whether anything
    changed. Killed at any moment, all of it is as before or as given.

    :param strays: files that go, too, unless they are of a part.
    :param anew: a manifest that is not this lab's own is replaced by one of these parts alone; otherwise it stays, as
        it does for who may not read the lab's key, and these files are not signed.
    :raises MachineError: the caller may not read the lab's key (``anew``).
    """
    if anew:
        key(lab)
    lab.output_dir.mkdir(parents=True, exist_ok=True)
    with _held(lab.output_dir):
        _settle(lab)
        found = seal(lab.output_dir, public(lab), lab.name)
        own = not found.reason and found.key == public(lab)
        before = found.manifest if own else Manifest(lab=lab.name)
        known = before.files
        kept = {name: part for name, part in before.parts.items() if name not in parts}
        new = {path: data for part in parts.values() if part for path, data in part.files.items()}
        hashes = {p: known.get(p) if data is None else digest(data) for p, data in new.items()}
        for name, part in parts.items():
            if part:
                own_files = {
                    path: hashed for path in sorted(part.files) if (hashed := hashes[path])
                }
                kept[name] = Part(run=part.run, files=own_files)
        after = Manifest(lab=lab.name, parts=dict(sorted(kept.items())))
        given = {
            path: data
            for path, data in new.items()
            if data is not None and content(lab.output_dir / path) != data
        }
        gone = [
            path
            for path in {*strays, *known} - after.files.keys()
            if (lab.output_dir / path).is_file()
        ]
        text = ""
        if after != before and (anew or own or not (lab.output_dir / MANIFEST).exists()):
            with nullcontext() if anew else suppress(MachineError):
                text = signed(lab, "manifest", after.model_dump(mode="json"))
        if text:
            _lay(lab, {**given, MANIFEST: text.encode()})
            _settle(lab)
        else:
            for path, data in given.items():
                write_atomically(lab.output_dir / path, data)
        for path in gone:
            (lab.output_dir / path).unlink(missing_ok=True)
        return bool(text or given or gone)


def _lay(lab: Lab, files: Mapping[str, bytes]) -> None:
    """The files wait, all of them, in ``.next``: from here on they are what the outputs are."""
    for path in files:
        if (lab.output_dir / path).is_dir():
            raise folder_in_place(lab.output_dir / path)
    for left in lab.output_dir.glob(f".{NEXT}.*.part"):  # by a call that was killed
        shutil.rmtree(left)
    part = beside(lab.output_dir / NEXT)
    try:
        for path, data in files.items():
            write_atomically(part / path, data)
        part.rename(lab.output_dir / NEXT)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _settle(lab: Lab) -> None:
    """What waits in ``.next`` is in its place, and what is no more of a part is gone."""
    folder, waiting = lab.output_dir, lab.output_dir / NEXT
    if not waiting.is_dir():
        return
    try:
        new = seal(waiting, public(lab), lab.name)
        if not new.reason:
            old = seal(folder, public(lab), lab.name).manifest.files
            for path in new.manifest.files:
                if (waiting / path).is_file():
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    put(waiting / path, folder / path)
            for path in old.keys() - new.manifest.files.keys():
                (folder / path).unlink(missing_ok=True)
            put(waiting / MANIFEST, folder / MANIFEST)
        shutil.rmtree(waiting)
    except PermissionError:
        raise not_root(str(waiting)) from None


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder's lock (flock(2)), which ends with the process: no other process reads or writes a part meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# -- verification ------------------------------------------------------------------------------


class Difference(Record):
    """A file that is not as it was signed."""

    file: str
    expected: str
    found: str


def differences(found: Seal, *parts: str) -> tuple[Difference, ...]:
    """The files of some parts that are not as they were signed."""
    listed = [part for name in parts if (part := found.manifest.parts.get(name))]
    return tuple(
        Difference(file=name, expected=f"sha256 {hashed}", found=seen)
        for part in listed
        for name, hashed in part.files.items()
        if (seen := described(found.folder / name)) != f"sha256 {hashed}"
    )


def described(path: Path) -> str:
    """A file's hash, or why it has none."""
    if not path.is_file():
        return "no file" if path.exists() else "missing"
    try:
        return f"sha256 {cache.digest(path)}"
    except OSError as error:
        return error.strerror or str(error)
