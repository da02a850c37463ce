"""A site's page, its virtual host and its access log: as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from labkit import Lab
from labkit.farm.services import balancer_config
from labkit.farm.traffic import bench
from labkit.model import sites

#: Titles that would do something in a page or in a template if they were not inert.
HOSTILE = [
    '"><script>alert(1)</script>',
    "</title></h1><h1>other",
    '<!--#exec cmd="id" -->',
    "&lt;b&gt; & 'quotes' \"double\"",
    "$name ${colour} $$ {numeral}",
    "%{LABKIT_REPLICA}e",
]


class Page(HTMLParser):
    """The tags and comments of a page, and the text of its heading."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.comments: list[str] = []
        self.heading = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Keeps the tag."""
        self.tags.append(tag)

    def handle_comment(self, data: str) -> None:
        """Keeps the comment."""
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        """Keeps the text in h1."""
        if self.tags and self.tags[-1] == "h1":
            self.heading += data


def titled(title: str) -> str:
    """The page of a site with that title."""
    lab = Lab.load(None, sites=[{"name": "red", "title": title}])
    return sites.page(lab, lab.sites[0])


@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_title_is_only_text(title: str) -> None:
    """The page has the same tags and server directives as with a plain title."""
    plain, found = Page(titled("plain")), Page(titled(title))
    assert found.tags == plain.tags
    assert found.comments == plain.comments
    assert found.heading.startswith(title)


def test_three_sites_are_told_apart() -> None:
    """Title, colour and numeral differ from page to page."""
    lab = Lab.load(None)
    pages = [sites.page(lab, item) for item in lab.sites]
    assert [lab.colour(item) in text for item, text in zip(lab.sites, pages, strict=True)] == [
        True
    ] * 3
    assert len({lab.colour(item) for item in lab.sites}) == 3
    assert [f'<div class="numeral">{number}</div>' in pages[number - 1] for number in (1, 2, 3)]
    assert len({Page(text).heading for text in pages}) == 3


@pytest.mark.parametrize(
    ("colour", "ink"), [("#0072B2", "#ffffff"), ("#F0E442", "#1f2933"), ("#56B4E9", "#1f2933")]
)
def test_a_heading_is_legible_on_any_colour(colour: str, ink: str) -> None:
    """White on a dark ground, dark on a light one."""
    lab = Lab.load(None, sites=[{"name": "red", "colour": colour}])
    assert f"background: {colour}; color: {ink};" in sites.page(lab, lab.sites[0])


def test_the_replica_is_put_in_by_the_server() -> None:
    """The page and the header name it by the container's variable, so one image serves for all."""
    lab = Lab.load(None, sites=["red"])
    made = sites.files(lab, lab.sites[0])
    assert '<!--#echo var="LABKIT_REPLICA" -->' in made["var/www/html/index.html"]
    conf = made["etc/apache2/sites-enabled/000-default.conf"]
    assert 'Header always set X-Labkit-Replica "%{LABKIT_REPLICA}e"' in conf
    assert "PassEnv LABKIT_REPLICA" in conf
    assert "ServerName red.lab.test" in conf
    assert "ErrorLog" not in conf  # the main configuration has one, which is cut


def line(agent: str = "curl", request: str = "GET / HTTP/1.1") -> str:
    """A log line as Apache writes it, ``agent`` and ``request`` with its escapes in them."""
    return (
        '{"time":"2026-01-02T03:04:05.678901+0000","replica":"red-1","client":"10.60.0.1",'
        f'"request":"{request}","status":200,"microseconds":321,"trace":"-","agent":"{agent}"}}'
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("curl/7.88", "curl/7.88"),
        ("-", "-"),
        (r"a \"quoted\" word", 'a "quoted" word'),
        (r"back\\slash", r"back\slash"),
        (r"\xc3\xa9t\xc3\xa9", r"\xc3\xa9t\xc3\xa9"),
        (r"\\x41", r"\x41"),
        (r"\\\xff", r"\\xff"),
        (r"tab\there", "tab\there"),
        (r"\v", r"\v"),
        (r"ends in \\", "ends in \\"),
        (r"\\u0041", r"\u0041"),
    ],
)
def test_log_lines_are_read_whatever_the_client_sent(written: str, read: str) -> None:
    """Apache's escapes (mod_log_config) in a client's own words never end or spoil the line."""
    lines = ["", line(agent=written), "\n", line(request=r"\x16\x03\x01")]
    (found, other), bad = sites.parse_log(lines)
    assert (other.request, bad) == (r"\x16\x03\x01", {})
    assert found.agent == read
    assert (found.replica, found.status, found.microseconds) == ("red-1", 200, 321)
    assert found.time.isoformat() == "2026-01-02T03:04:05.678901+00:00"


def test_the_format_of_the_log_is_one_json_object() -> None:
    """Each key that is read back is in the format, once."""
    keys = json.loads(sites.LOG_FORMAT.replace("%>s", "0").replace("%D", "0")).keys()
    assert keys == sites.Request.model_fields.keys()


def test_a_container_s_server_loads_what_the_page_needs() -> None:
    """Each module of Debian's name, nothing of Debian's lists."""
    lab = Lab.load(None, sites=["red"])
    files = sites.files(lab, lab.sites[0])
    text = files[sites.SERVER]
    loaded = [line.split()[1] for line in text.splitlines() if line.startswith("LoadModule")]
    assert loaded == [f"{name}_module" for name in sites.MODULES]
    assert "mods-enabled" not in text
    assert "sites-enabled/*.conf" in text
    assert f"MaxRequestWorkers {sites.THREADS}\n" in files[sites.CONFIGURATION]


def test_a_replica_has_threads_for_all_that_the_balancer_and_a_measurement_send() -> None:
    """Else its server closes kept connections in the middle of requests: two processes of the balancer, the
    older one ending after a reload, each with a health check, or a measurement's clients directly."""
    config = balancer_config.config(Lab.load(None, sites=["red"]))
    [most] = {int(item) for item in re.findall(r" max=(\d+) ", config)}
    assert 2 * (most + 1) <= sites.THREADS
    assert bench.CONNECTIONS < sites.THREADS
    # clients that wait for a replica's turn have a thread of the balancer's each
    [most] = [line.split()[1] for line in config.splitlines() if "MaxRequestWorkers" in line]
    assert int(most) >= 2 * 128
