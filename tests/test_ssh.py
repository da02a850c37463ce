"""ssh from the host into the containers of a real farm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import run
from labkit.errors import CommandError
from labkit.farm.containers import container, runc
from labkit.farm.images import layout as images
from labkit.farm.reconcile import up
from labkit.farm.services import ssh
from tests.test_run import gone
from tests.whole_farm import standing


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """One site on two replicas, with sshd in both; every test leaves it so."""
    with standing(sites=["red"]) as lab:
        ssh.login(lab)
        yield lab


def listeners(lab: Lab) -> dict[str, int]:
    """The process id of each replica's sshd."""
    found = {}
    for replica in lab.farm:
        words = ["ss", "-H", "-l", "-n", "-t", "-p", "sport", "=", ":22"]
        line = run.run(words, netns=replica.netns).stdout.splitlines()[0]
        found[replica.name] = int(line.partition("pid=")[2].split(",")[0])
    return found


def client(lab: Lab, *options: str) -> list[str]:
    """An ssh command to the first replica that knows its host key and nothing else."""
    known = lab.state_dir / "ssh" / "known_hosts"
    words = ["ssh", "-F", "none", "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes"]
    for option in ("StrictHostKeyChecking=yes", "IdentitiesOnly=yes", *options):
        words += ["-o", option]
    return [*words, f"root@{lab.farm[0].address}", "hostname"]


def test_a_container_s_files_hold_no_private_key_of_the_student_s(
    make_lab: Callable[..., Lab],
) -> None:
    """The student's public half and the container's own key go in; passwords are off. The keys are made once, and
    nobody else can read the private halves."""
    lab = make_lab()
    given = container.keys(lab)
    made = container.ssh_files(given)
    private = (given.folder / "student").read_text()
    assert made["root/.ssh/authorized_keys"] == given.user + "\n"
    assert private not in made.values()
    assert "PasswordAuthentication no" in made["etc/ssh/sshd_config.d/labkit.conf"].splitlines()
    assert container.keys(lab) == given
    assert given.folder.stat().st_mode & 0o777 == 0o700
    for name in ("student", "host"):
        assert (given.folder / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.root
def test_a_session_answers_with_the_container_s_host_name(farm: Lab) -> None:
    """Root in each container, told in the result's table and by its check; a second run changes nothing."""
    result = ssh.login(farm)
    assert failed(result.checks) == ()
    assert [(item.replica, item.hostname, item.user) for item in result.value] == [
        ("red-1", "red-1", "root"),
        ("red-2", "red-2", "root"),
    ]
    assert all(check.rows == ("R10",) for check in result.checks)
    assert [row[0] for row in result.table("ssh").rows] == ["red-1", "red-2"]
    before = listeners(farm)
    assert ssh.login(farm).changed is False
    assert listeners(farm) == before


@pytest.mark.root
def test_a_strange_key_is_refused(farm: Lab) -> None:
    """The container's own key, which is no student's."""
    strange = farm.state_dir / "ssh" / "host"
    with pytest.raises(CommandError, match="Permission denied"):
        run.run(client(farm, f"IdentityFile={strange}"), netns=farm.netns, timeout=20)


@pytest.mark.root
def test_keys_are_in_no_image(farm: Lab) -> None:
    """The image's layers hold neither host keys nor anybody's authorized_keys; in the container, the host key is
    root's alone."""
    for lower in images.unpacked(farm, "red").lower:
        assert list(lower.glob("etc/ssh/ssh_host_*")) == []
        assert list(lower.glob("root/.ssh/*")) == []
    with pytest.raises(CommandError, match="Permission denied"):
        container.execute(farm, "red-1", "cat", "/etc/ssh/ssh_host_ed25519_key")


@pytest.mark.root
def test_sshd_has_the_capabilities_it_needs_and_no_more(farm: Lab) -> None:
    """The web server beside it still has none."""
    pids = listeners(farm)
    words = ["grep", "CapEff", f"/proc/{pids['red-1']}/status"]
    mask = int(run.run(words).stdout.split()[1], 16)
    assert bin(mask).count("1") == len(container.SSH_CAPABILITIES)
    server = runc.states(farm)["red-1"].pid
    assert run.run(["grep", "CapEff", f"/proc/{server}/status"]).stdout.split()[1] == "0" * 16


@pytest.mark.root
def test_sshd_is_started_again_with_its_container(farm: Lab) -> None:
    """It ended with the container; the other's goes on."""
    before = listeners(farm)
    container.kill(farm, farm.farm[0])
    up.replicas(farm)
    assert gone(before["red-1"])
    result = ssh.login(farm)
    assert result.changed
    assert result.holds
    assert listeners(farm)["red-2"] == before["red-2"]


@pytest.mark.root
def test_a_container_that_is_dead_is_told_by_its_check(farm: Lab) -> None:
    """The error names the container, and the others' sessions are not lost in it."""
    container.kill(farm, farm.farm[0])
    try:
        result = ssh.login(farm)
        assert [check.name for check in failed(result.checks)] == ["network.ssh.red-1"]
        assert [item.replica for item in result.value] == ["red-2"]
    finally:
        up.replicas(farm)
        ssh.login(farm)


def key_made_in(folder: Path, comment: str, passphrase: str = "") -> tuple[str, str]:
    """A private key and its public half, made by ssh-keygen."""
    words = ["-q", "-t", "ed25519", "-N", passphrase, "-C", comment, "-f", str(folder / comment)]
    run.run(["ssh-keygen", *words])
    return (folder / comment).read_text(), (folder / f"{comment}.pub").read_text()


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_key_that_was_cut_has_no_public_half(tmp_path: Path, cut: int) -> None:
    """Whatever its comment's length: a line that is missing, or one that is somebody else's. A whole one's half is
    what ssh-keygen writes beside it, without the comment."""
    (private, public), (other, _) = (key_made_in(tmp_path, sign * cut) for sign in "xo")
    half = container.public_half(private)
    assert half.startswith("ssh-ed25519 ")
    assert public.startswith(f"{half} ")
    lines, others = private.splitlines(), other.splitlines()
    for place in range(1, len(lines) - 1):
        assert container.public_half("\n".join(lines[:place] + lines[place + 1 :])) == ""
    mixed = [lines[0], *others[1:3], *lines[3:]]
    assert container.public_half("\n".join(mixed)) == ""


def test_what_is_no_key_has_no_public_half(tmp_path: Path) -> None:
    """Whatever stands in the file; a key with a passphrase could be read, and not be used."""
    for text in ("", "no key", "-----BEGIN-----\nAAAA\n-----END-----\n", "AAAAé"):
        assert container.public_half(text) == ""
    assert container.public_half(key_made_in(tmp_path, "key", "secret")[0]) == ""


def test_the_keys_are_looked_at_without_making_them(make_lab: Callable[..., Lab]) -> None:
    """Missing, sound, of another private key, readable for others, damaged."""
    lab = make_lab()
    folder = lab.state_dir / "ssh"
    assert container.key_states(lab) == {"student": "missing", "host": "missing"}
    assert not folder.exists()
    container.keys(lab)
    assert container.key_states(lab) == {"student": "sound", "host": "sound"}
    (folder / "student.pub").write_text((folder / "host.pub").read_text())
    (folder / "host").chmod(0o644)
    assert container.key_states(lab) == {
        "student": "not the one of its public half",
        "host": "for others to read",
    }
    container.keys(lab)
    (folder / "host").write_text("damaged")
    assert container.key_states(lab) == {"student": "sound", "host": "damaged"}
