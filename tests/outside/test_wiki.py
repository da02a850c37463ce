"""curl asks the lab's wiki by names that are its own, and by others."""

from __future__ import annotations

import pytest

from labkit import Lab
from tests.outside.asking import needs, said

pytestmark = [pytest.mark.root, needs("curl")]
PATHS = ("/wiki/Main_Page", "/w/api.php?action=query&format=json", "/w/load.php?modules=startup&only=scripts", "/images/")  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:{port}", True), ("localhost:{port}", True), ("localhost:18060", True), ("LOCALHOST", True),
        ("rebound.example", False), ("rebound.example:{port}", False), ("localhost.rebound.example", False),
        ("127.0.0.1.rebound.example", False), ("0.0.0.0:{port}", False), ("", False),
    ],
)  # fmt: skip
def test_the_wiki_is_read_by_its_own_names_alone(
    wiki_lab: Lab, host: str, own: bool, path: str
) -> None:
    """A page in the person's browser whose name leads to loopback (DNS rebinding) reads nothing of it."""
    port = wiki_lab.wiki.port
    header = f"Host: {host.format(port=port)}" if host else "Host;"
    words = ("--silent", "--output", "/dev/stderr", "--write-out", "%{http_code}\n", "--header", header)  # fmt: skip
    text = said("curl", *words, f"http://127.0.0.1:{port}{path}")
    status = int(text.partition("\n")[0])
    assert (status < 400) is (own and path != "/images/"), text[:300]
