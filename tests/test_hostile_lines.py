"""Lines and answers that somebody wrote who means harm: counted and named, never an exception."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit import Lab, reading
from labkit.errors import WikiError
from labkit.farm.containers import written
from labkit.farm.reconcile import answers
from labkit.farm.services import balancer, fetch
from labkit.farm.services.fetch import Target
from labkit.farm.traffic import measurements
from labkit.farm.traffic.measurements import Log
from labkit.model import sites
from labkit.wiki.client import transport
from labkit.wiki.client.mediawiki import asked
from tests.servers import served

#: What a replica's server writes.
HONEST = {
    "time": "2026-03-01T10:00:00.123456+0000", "replica": "red-1", "client": "10.60.0.1", "request": "GET / HTTP/1.1",
    "status": 200, "microseconds": 1234, "trace": "ab-1", "agent": "-",
}  # fmt: skip


def line(**values: object) -> str:
    """The honest line with other values; None takes a key away."""
    given_ = {**HONEST, **values}
    return json.dumps({key: value for key, value in given_.items() if value is not None})


def raw(key: str, value: str) -> str:
    """The honest line with a value that Python would not write."""
    return line(**{key: "HERE"}).replace('"HERE"', value)


#: Forged lines, by what is forged.
FORGED = {
    "nothing in a line": " ",
    "no JSON": "GET / HTTP/1.1",
    "a zero byte": "\0",
    "zero bytes": "\0" * 1000,
    "the beginning of a line": line()[:40],
    "an end too many": line() + "}",
    "two lines in one": line() + line(),
    "a comma too many": line()[:-1] + ",}",
    "single quotes": line().replace('"', "'"),
    "a comment": "// " + line(),
    "a byte order mark": "\ufeff" + line(),
    "nested lists": "[" * 100_000,
    "nested objects": '{"a":' * 100_000,
    "nested lists that end": "[" * 5000 + "]" * 5000,
    "nested in a known key": raw("trace", "[" * 5000 + "]" * 5000),
    "nested in an unknown key": line()[:-1] + ',"x":' + "[" * 5000 + "]" * 5000 + "}",
    "a number": "7",
    "a number of many digits": "7" * 10_000,
    "null": "null",
    "true": "true",
    "not a number": "NaN",
    "infinity": "-Infinity",
    "a text": '"text"',
    "an empty list": "[]",
    "an empty object": "{}",
    "a list of lines": f"[{line()}]",
    "an unknown key": line(more="x"),
    "an unknown key of a class": line(__class__="x"),
    "an unknown key of a model": line(model_config="x"),
    **{f"no {key}": line(**{key: None}) for key in HONEST},
    **{f"{key} is null": raw(key, "null") for key in HONEST},
    **{f"{key} is a list": raw(key, "[]") for key in HONEST},
    **{f"{key} is an object": raw(key, '{"a":1}') for key in HONEST},
    "a status in words": line(status="fine"),
    "a status below zero": line(status=-1),
    "a large status": line(status=1000),
    "a status of many digits": raw("status", "2" * 4000),
    "a status of too many digits": raw("status", "2" * 10_000),
    "a status that is not a number": raw("status", "NaN"),
    "an infinite status": raw("status", "1e999"),
    "a status with a fraction": line(status=200.5),
    "an endless time": line(microseconds=10**13),
    "a time below zero": line(microseconds=-1),
    "a time in words": line(microseconds="long"),
    "a date out of range": line(time="99999-01-01T00:00:00+0000"),
    "a month out of range": line(time="2026-13-01T00:00:00+0000"),
    "a date of many digits": line(time="2" * 5000),
    "a date as a huge number": raw("time", "9" * 400),
    "a date as infinity": raw("time", "1e999"),
    "a zone out of range": line(time="2026-03-01T10:00:00+9999"),
    "a key that is half a pair": '{"\\ud800":1}',
    "an unknown escape in an object": '{"a":"\\u00"}',
    "a line feed in a text": raw("agent", '"a\vb"'),
    "a very long line": line(agent="x" * 200_000),
    "a very long unknown key": line(**{"k" * 100_000: 1}),
}  # fmt: skip


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_line_is_counted_and_named(forged: str) -> None:
    """The honest ones around it are read; and what is said of it has nothing of it."""
    file = io.BytesIO(
        "".join(f"{text}\n" for text in (line(), forged, line(trace="ab-2"))).encode()
    )
    found, bad = sites.parse_log(reading.lines(file))
    assert [item.trace for item in found] == ["ab-1", "ab-2"]
    assert bad.total() == (1 if forged.strip() else 0)
    assert len(reading.told(bad)) < 60
    own = '{"time":"2026-03-01T10:00:00+0000","site":"a","replica":"a-1"}'
    lines, bad = balancer.parse([forged, own])
    assert (lines, bad.total()) == ([], 2)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.binary(max_size=2000))
def test_bytes_are_lines_or_none(data: bytes) -> None:
    """Whatever they are."""
    found, bad = sites.parse_log(reading.lines(io.BytesIO(data)))
    assert found == []
    assert bad.total() <= data.count(b"\n")
    balancer.parse(reading.lines(io.BytesIO(data)))


WORDS = st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from([*HONEST, "more"]), VALUES))
def test_values_of_any_kind_are_requests_or_none(values: dict[str, object]) -> None:
    """And a request that is read can be counted, told and written again."""
    forged = json.dumps({**HONEST, **values})
    found, bad = sites.parse_log([forged])
    assert len(found) + bad.total() == 1
    for item in found:
        assert item.model_dump_json()
    served = measurements.by_number(((item.trace, "red-1") for item in found), "ab")
    check = measurements.agreement("x", {1: "red-1"}, Log(served, bad), "")
    assert check.holds is (served == {1: "red-1"} and not bad)


@given(st.text())
def test_a_forged_number_is_none(text: str) -> None:
    """int(3) refuses what str.isdigit takes for digits, and more digits than it likes."""
    assert measurements.by_number([(f"ab-{text}", "a"), ("ab-²", "a"), (f"ab-{'7' * 5000}", "a")], "ab") in (
        {}, {int(text) if text.isascii() and text.isdigit() else 0: "a"},
    )  # fmt: skip


def test_a_line_without_end_is_read_in_parts() -> None:
    """Of a long one the beginning is told, and the next line is whole; one that is being written is none."""
    data = b"ab " + b"x" * (3 * reading.LONGEST) + b"\nab 2\nab 3"
    found = list(reading.lines(io.BytesIO(data), "ab"))
    assert [len(item) for item in found] == [reading.LONGEST, 5]


def test_a_check_names_what_is_forged() -> None:
    """And fails, though every request is there; of many kinds of faults the most frequent ones are told."""
    check = measurements.agreement("x", {1: "a"}, Log({1: "a"}, Counter({"no JSON": 3})), "")
    assert (check.holds, check.seen) == (False, "a 1; 3 lines are no requests: 3 × no JSON")
    bad = Counter({f"fault {number}": number for number in range(1, 9)})
    assert reading.told(bad).startswith("8 × fault 8, 7 × fault 7")
    assert reading.told(bad).endswith("4 × fault 4, others")


ANSWERS = (
    "", "null", "7", '"error"', "[]", "[" * 100_000, '{"a":' * 100_000, "7" * 10_000, "NaN", '{"error":"x"}', '{"error":[]}',
    '{"error":{"code":[]}}', r'{"a":"\ud800"}', "<html>",
)  # fmt: skip


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_of_a_wiki_is_one_or_none(text: str) -> None:
    """mwclient, which parses it again, gets nothing that harms it."""
    code = transport._code(text)
    assert code is None or isinstance(code, str)
    if code is not None:
        json.loads(text)


@pytest.mark.parametrize("status", ["²", "2" * 5000, "-1", "", "two", "200\0", "٢٠٠"])
def test_a_status_that_is_no_number_is_none(status: str) -> None:
    """Of a replica's answer: what str.isdigit takes for digits, int(3) does not."""
    answer = f"HTTP/1.1 {status} OK\r\n\r\n".encode("latin-1", errors="ignore")
    assert answers.read_head(answer).fault == "no HTTP"


@pytest.mark.parametrize(
    "header", ["²", "9" * 5000, "-1", "nan", "never", "Mon, 99 Foo 99999 99:99:99 GMT"]
)
def test_a_wiki_that_asks_to_wait_for_ever_is_not_obeyed(header: str) -> None:
    """Its header is a number, a date, or nothing."""
    assert transport._seconds(header) >= 0


class Hostile(BaseHTTPRequestHandler):
    """Answers each path in its way of doing harm."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-Labkit-Replica", "r" * 10_000)
        if self.path == "/short":
            self.send_header("Content-Length", "1000")
        if self.path == "/chunk":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(b"x" * 10)
            while self.path in ("/endless", "/drip"):
                self.wfile.write(b"x" * (1 if self.path == "/drip" else 100_000))
                time.sleep(0.05 if self.path == "/drip" else 0)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/endless", "more than 1000000 bytes"),
        ("/drip", "no end within 0.5 s"),
        ("/short", "IncompleteRead"),
        ("/chunk", "IncompleteRead"),
    ],
)
def test_an_answer_without_end_is_none(
    path: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that ends too early; it is an error as every other one on the way to an answer."""
    monkeypatch.setattr(fetch, "LARGEST", 10**6)
    monkeypatch.setattr(fetch, "LONGEST", 0.5)
    with served(ThreadingHTTPServer(("127.0.0.1", 0), Hostile)) as server:
        address = IPv4Address("127.0.0.1")
        there = Target(label="a", host="a", address=address, port=server.server_port)
        assert fetch.get(there, "/").body == "x" * 10
        assert fetch.get(there, "/").replica == "r" * 100
        with pytest.raises(fetch.ERRORS) as refused:
            fetch.get(there, path)
    assert said in repr(refused.value)


def test_an_answer_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is parsed."""
    monkeypatch.setattr(reading, "MOST", 10)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        reading.parsed('"0123456789"')


def test_an_answer_of_another_kind_is_an_error_of_the_wiki_s() -> None:
    """A list where an object is to be."""
    with pytest.raises(WikiError, match="cannot be read: AttributeError"):
        asked("a page", lambda: [].get("query"))  # type: ignore[attr-defined]


def test_what_a_log_ends_with_is_no_order_to_a_terminal(tmp_path: Path) -> None:
    """An error shows it."""
    lab = Lab.of({"state": str(tmp_path)})
    log = written.log(lab, "red-1", "error")
    log.parent.mkdir(parents=True)
    log.write_text("\x1b]0;title\x07\x9b2J end\n")
    assert written.end(log) == "\ufffd]0;title\ufffd\ufffd2J end"
