"""Passwords and private keys of a whole lab: where they stand, who may read them, and that no image has one."""

from __future__ import annotations

import json
import os
import re
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.farm.containers import container
from labkit.farm.images import layout as image
from labkit.wiki import server
from labkit.wiki.client import session
from tests import proc
from tests.conftest import free_port
from tests.whole_farm import standing as whole_farm

pytestmark = pytest.mark.root

#: How a private key begins, whatever its kind (RFC 7468; OpenSSH's PROTOCOL.key).
KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}")
#: Longer files are databases and archives.
MOST = 64 << 20


@pytest.fixture(scope="module")
def whole() -> Iterator[Lab]:
    """A farm and its wiki on MariaDB, all up, and a session by ssh to be had."""
    with whole_farm(sites=["red"], wiki_database="mariadb", wiki_port=free_port()) as lab:
        container.keys(lab)
        server.up(lab)
        yield lab


def files(*folders: Path) -> Iterator[Path]:
    """Every file below these folders once, and nothing of what is mounted there."""
    for folder in filter(Path.exists, folders):
        device = folder.stat().st_dev
        for place, names, found in os.walk(folder):
            names[:] = [name for name in names if Path(place, name).lstat().st_dev == device]
            for name in found:
                path = Path(place, name)
                seen = path.lstat()
                if stat.S_ISREG(seen.st_mode) and seen.st_dev == device:
                    yield path


def holders(words: Iterable[bytes], *folders: Path) -> dict[Path, int]:
    """The files that hold one of the words, or a private key, each with its mode."""
    pattern = re.compile(b"|".join([KEY.pattern, *map(re.escape, words)]))
    found = {}
    for path in files(*folders):
        seen = path.stat()
        if seen.st_size <= MOST and pattern.search(path.read_bytes()):
            found[path] = stat.S_IMODE(seen.st_mode)
    return found


def test_a_secret_stands_where_it_is_needed_and_nobody_else_reads_it(whole: Lab) -> None:
    """In files of their owner's alone: labkit's own, the ssh keys, the containers' host key. MediaWiki's settings
    are root's, for PHP to read and not to write; the database is in a folder of its account's alone."""
    plain = session.passwords(whole).plain()
    words = [word.encode() for word in plain.values()]
    found = holders(words, whole.state_dir, whole.run_dir, whole.output_dir)
    wiki = whole.state_dir / "wiki"
    database = {path for path in found if path.is_relative_to(wiki / "mariadb")}
    keys = {whole.state_dir / "ssh" / name for name in ("student", "host")}
    inner = {path for path in found if path.match("etc/ssh/ssh_host_ed25519_key")}
    assert len(inner) == 1  # all containers see the same one
    assert (
        found.keys() - database
        == {wiki / "passwords.json", wiki / "LocalSettings.php"} | keys | inner
    )
    settings = wiki / "LocalSettings.php"
    assert (oct(found.pop(settings)), settings.owner(), settings.group()) == (
        "0o640",
        "root",
        "www-data",
    )
    assert {oct(mode) for path, mode in found.items() if path not in database} == {"0o600"}
    assert {oct(mode & 0o007) for path, mode in found.items() if path in database} <= {"0o0"}
    assert stat.S_IMODE((wiki / "mariadb").stat().st_mode) == 0o700


def test_a_secret_is_in_no_process_list(whole: Lab) -> None:
    """Neither in a command line nor in an environment of any process on the machine."""
    words = session.passwords(whole).plain().values()
    for name in ("cmdline", "environ"):
        found = dict(proc.texts(name))
        assert found
        assert [pid for pid, text in found.items() if any(word in text for word in words)] == []


def has_key(data: bytes) -> bool:
    """Whether a file is a private key, or has one in it; a program may have some, to test itself (GnuTLS)."""
    return not data.startswith(b"\x7fELF") and bool(KEY.search(data))


def layers(layout: Path) -> Iterator[tarfile.TarFile]:
    """The layers of an OCI image layout, unpacked by nobody: each blob that is an archive."""
    for blob in sorted(layout.glob("blobs/sha256/*")):
        if tarfile.is_tarfile(blob):
            with tarfile.open(blob) as archive:
                yield archive


def test_no_layer_of_an_image_has_a_private_key(whole: Lab) -> None:
    """Nor has what is unpacked of it: whoever is given the image is given nobody's key."""
    layout = image.build(whole).value.layout
    assert json.loads((layout / "index.json").read_text())["manifests"]
    seen = 0
    for archive in layers(layout):
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content and member.size < MOST:
                seen += 1
                assert not has_key(content.read()), member.name
                assert "ssh_host_" not in member.name
    assert seen > 100
    for lower in image.unpacked(whole, "red").lower:
        assert [path for path in files(lower) if has_key(path.read_bytes())] == []
