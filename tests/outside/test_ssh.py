"""ssh's own programs look at the containers' ssh servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit import Lab
from labkit.farm.containers import container
from labkit.farm.services import ssh
from tests.outside.asking import needs, said

pytestmark = [pytest.mark.root, needs("ssh", "ssh-keyscan", "ssh-keygen")]


@pytest.fixture(scope="module")
def keys(farm: Lab) -> Path:
    """The folder of the lab's keys; its ssh servers run."""
    ssh.login(farm)
    return farm.state_dir / "ssh"


def test_the_servers_have_the_key_that_is_known(farm: Lab, keys: Path) -> None:
    """By ssh-keyscan, before anybody logs in."""
    for replica in farm.farm:
        address = str(replica.address)
        shown = said("ssh-keyscan", "-T", "5", address, netns=farm.netns)
        known = said("ssh-keygen", "-F", address, "-f", keys / "known_hosts")
        assert known.split()[-1] in shown


@pytest.mark.parametrize(
    "options",
    [
        ("PreferredAuthentications=password", "PubkeyAuthentication=no"),
        ("PreferredAuthentications=keyboard-interactive", "PubkeyAuthentication=no"),
        ("IdentityFile=/nowhere", "IdentitiesOnly=yes"),
    ],
)
def test_nobody_gets_in_without_the_key(farm: Lab, keys: Path, options: tuple[str, ...]) -> None:
    """No password is asked for."""
    given = [word for option in options for word in ("-o", option)]
    known = (
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        f"UserKnownHostsFile={keys / 'known_hosts'}",
    )
    text = said("ssh", *known, *given, f"root@{farm.farm[0].address}", "id", netns=farm.netns, fails=True)  # fmt: skip
    assert "Permission denied (publickey)" in text


def test_private_keys_are_as_ssh_wants_them(keys: Path) -> None:
    """ssh-keygen reads them, and nobody else can."""
    for name in container.KEY_NAMES:
        assert said("ssh-keygen", "-y", "-f", keys / name).startswith("ssh-ed25519 ")
        assert (keys / name).stat().st_mode & 0o77 == 0
