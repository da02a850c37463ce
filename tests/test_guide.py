"""What a rebuild says in the end: how to go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit import Lab
from labkit.report.batch import progress
from labkit.report.batch.progress import next_steps


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report was published."""
    monkeypatch.setattr(progress, "report_address", lambda lab: "http://127.0.0.1:8060/wiki/Report")


@pytest.mark.parametrize(
    ("netns", "within", "browser"),
    [
        ("", "", "chromium"),
        ("side", "sudo nsenter --net=/run/netns/side -- ", "chromium --no-sandbox"),
    ],
)
def test_commands_run_where_the_sites_are(
    tmp_path: Path, netns: str, within: str, browser: str
) -> None:
    """On the machine as a person, in a namespace as root; neither a proxy nor a port is forgotten."""
    places = {name: str(tmp_path / name) for name in ("outputs", "state", "run")}
    lab = Lab.of({"name": "g", "host": {"netns": netns}, "proxy": {"port": 81}, **places})
    said = [text for _, text in next_steps(lab, tmp_path / "index.html")]
    resolved = f"site1.g.test:81:{lab.gateway.ip} http://site1.g.test:81/"
    assert f"{within}curl --disable --noproxy '*' --resolve {resolved}" in said
    rules = f"--no-proxy-server --host-resolver-rules='MAP *.g.test {lab.gateway.ip}'"
    assert f"{within}{browser} {rules} http://site1.g.test:81/" in said
    assert f"sudo cat {lab.state_dir}/wiki/passwords.json" in said
    assert str(tmp_path / "index.html") in said


@pytest.mark.parametrize(("whole", "there"), [(False, "http://wiki"), (True, "")])
def test_a_part_says_where_the_review_site_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool, there: str
) -> None:
    """After some stages alone, or when no report was ever published, nothing else is promised. Of an existing wiki
    nothing is said about logging in."""
    lab = Lab.of({"wiki": {"url": "https://wiki.test/w/api.php"}, "outputs": str(tmp_path)})
    heads = [head for head, _ in next_steps(lab, tmp_path)]
    assert "Report" in heads
    assert "Log in" not in heads
    monkeypatch.setattr(progress, "report_address", lambda lab: there)
    lab = Lab.of({"outputs": str(tmp_path)})
    assert next_steps(lab, tmp_path, whole=whole) == (("Review site", str(tmp_path)),)
