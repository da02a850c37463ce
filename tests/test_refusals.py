"""What a wiki refuses: each refusal is an error of its own, nothing is half-done, and it can be made good."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from labkit import Lab
from labkit.core import daemon
from labkit.errors import WikiError
from labkit.wiki import server
from labkit.wiki.client import refusals, session, transport
from labkit.wiki.client.mediawiki import MediaWiki
from labkit.wiki.client.protocol import Upload
from labkit.wiki.merge import fences
from labkit.wiki.server import lifecycle
from labkit.wiki.server.configuration import Folders
from tests.conftest import lab_maker, open_place
from tests.desks import SUMMARY, Desk, fresh, picture, stage
from tests.faults import Proxy, proxy_to

#: Settings of the wiki that a request brings along, read by what is put after its own.
HEADER = "X-Labkit-Test"
READ = """
foreach ( json_decode( $_SERVER['HTTP_X_LABKIT_TEST'] ?? '[]', true ) as $name => $value ) {
    $GLOBALS[$name] = $value;
}
foreach ( $wgTestExtensions ?? [] as $name ) { wfLoadExtension( $name ); }
if ( isset( $wgTestFilter ) ) {
    $wgHooks['EditFilterMergedContent'][] = static function ( $context, $content, $status ) {
        $status->fatal( ApiMessage::create( [ 'rawmessage', 'no such words' ], $GLOBALS['wgTestFilter'] ) );
        return false;
    };
}
"""


@pytest.fixture(scope="module")
def strict() -> Iterator[Lab]:
    """A lab with a wiki of its own, whose settings a request can change for itself."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make()
        server.up(lab)
        with Folders(lab).settings.open("a") as settings:
            settings.write(READ)
        daemon.send(lifecycle.web_server(Folders(lab)), signal.SIGUSR1)
        until = time.monotonic() + 30
        while name_of(lab) != "read":
            assert time.monotonic() < until
            time.sleep(0.05)
        yield lab


def name_of(lab: Lab) -> str:
    """What the wiki calls itself when a request says so."""
    site = session.open(lab)
    site.connection.headers[HEADER] = json.dumps({"wgSitename": "read"})
    try:
        return str(site.get("query", meta="siteinfo")["query"]["general"]["sitename"])
    finally:
        site.close()


class Strict(Desk):
    """A page of a wiki whose settings can be changed for the bot's requests."""

    def let(self, **settings: object) -> None:
        """From now on the wiki has these settings as well, for the bot."""
        self.bot.connection.headers[HEADER] = json.dumps(settings)

    def state(self) -> object:
        """The page now, and the picture."""
        item = picture(31)
        snapshot = self.teacher.read(self.page, files=[item.name])
        return snapshot.revision


@pytest.fixture
def page(strict: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Strict]:
    """A page of the test's own on which labkit and a teacher have written."""
    made = Strict(
        strict, request.node.name.replace("[", " ").replace("]", ""), tmp_path / "pristine"
    )
    made.publish(SUMMARY, stage(250))
    made.after("| all || 250", "REX> kept")
    yield made
    made.bot.connection.close()
    made.teacher.connection.close()


def refused(page: Strict, *, uploads: tuple[Upload, ...] = (), megabytes: int = 171) -> WikiError:
    """The error of a publication that the wiki refuses; the page is as it was before."""
    before = page.state()
    with pytest.raises(WikiError) as caught:
        page.publish(SUMMARY, stage(megabytes), uploads=uploads)
    assert page.state() == before
    assert caught.value.remedy
    return caught.value


def made_good(page: Strict, *, uploads: tuple[Upload, ...] = ()) -> None:
    """With the wiki's own settings again, the next publication does all that was left."""
    page.let()
    page.publish(SUMMARY, stage(171), uploads=uploads)
    assert page.text.replace("REX> kept\n", "") == fresh(SUMMARY, stage(171))
    assert "| all || 171\nREX> kept\n" in page.text
    assert not page.publish(SUMMARY, stage(171), uploads=uploads).changed


def there(page: Strict, item: Upload) -> bool:
    """Whether the wiki has a picture."""
    return item.name in page.teacher.read(page.page, files=[item.name]).files


# -- the page --------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize(
    ("settings", "reason", "remedy"),
    [
        ({"wgReadOnly": "new disks"}, "the wiki is read-only now (readonly", "when its owner has opened it"),
        ({"wgTestExtensions": ["ConfirmEdit"], "wgCaptchaTriggers": {"edit": True}},
         "the wiki asks for a captcha", "skipcaptcha"),
        ({"wgTestFilter": "abusefilter-disallowed"}, "an abuse filter of the wiki refuses the text", "exempt"),
        ({"wgTestFilter": "of-another-kind"}, "the wiki refuses (of-another-kind: no such words)", "wiki's owner"),
        ({"wgRateLimits": {"edit": {"user": [0, 60]}}}, "limits how often the bot may write", "in a minute"),
        ({"wgRevokePermissions": {"user": {"edit": True}}}, "the bot's account may not do that", "grant"),
        ({"wgNamespaceProtection": {"0": "nobody"}}, "the page's namespace is protected", "unprotect"),
    ],
    ids=["read-only", "captcha", "filter", "other", "rate", "right", "namespace"],
)  # fmt: skip
def test_a_refused_edit_is_told_and_made_good(
    page: Strict, settings: dict[str, object], reason: str, remedy: str
) -> None:
    """The page stays as it is; when the wiki takes edits again, the next publication finishes."""
    page.let(**settings)
    error = refused(page)
    assert reason in error.reason
    assert remedy in error.remedy
    made_good(page)


@pytest.mark.root
def test_a_protected_page_is_told_before_a_picture_is_sent(page: Strict) -> None:
    """What the wiki would refuse is asked first, also for a page that is not there yet: no picture is left without its
    page."""
    item = picture(32)
    token = page.teacher.get_token("csrf")
    page.teacher.post("protect", title=page.page, protections="edit=sysop", token=token)
    error = refused(page, uploads=(item,))
    assert error.reason.startswith("the page is protected")
    assert not there(page, item)
    page.teacher.post("protect", title=page.page, protections="edit=all", token=token)
    made_good(page)
    page.page += " new"
    page.teacher.post("protect", title=page.page, protections="create=sysop", token=token)
    assert refused(page, uploads=(item,)).reason.startswith("the page is protected")
    assert not there(page, item)


@pytest.mark.root
def test_a_blocked_account_is_told_before_a_picture_is_sent(page: Strict) -> None:
    """And when it is unblocked, the publication goes on."""
    item, token = picture(34), page.teacher.get_token("csrf")
    page.teacher.post("block", user=session.BOT, reason="too fast", token=token)
    try:
        error = refused(page, uploads=(item,))
        assert error.reason.startswith("the bot's account is blocked")
        assert error.remedy == "unblock it"
        assert not there(page, item)
        assert refused(page).remedy == "unblock it"
    finally:
        page.teacher.post("unblock", user=session.BOT, token=token)
    made_good(page)


@pytest.mark.root
@pytest.mark.parametrize("told", [True, False], ids=["it says so", "it does not"])
def test_a_page_that_is_too_large_is_told(page: Strict, told: bool) -> None:
    """From the limit that the wiki tells, before anything is sent; else from its refusal."""
    item = picture(35)
    page.let(wgMaxArticleSize=1)
    page.bot.site["maxarticlesize"] = 1024 if told else 2_000_000
    before = page.state()
    large = fences.block("05-web", "== Web sites ==", "six pages " * 300)
    with pytest.raises(WikiError) as caught:
        page.publish(SUMMARY, stage(171), large, uploads=(item,) if told else ())
    assert page.state() == before
    assert (
        "takes 1,024 at most" in str(caught.value) if told else "contenttoobig" in str(caught.value)
    )
    assert "$wgMaxArticleSize" in caught.value.remedy
    assert not there(page, item)
    made_good(page)


# -- pictures --------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize(
    ("settings", "data", "reason"),
    [
        ({"wgEnableUploads": False}, None, "the wiki takes no uploads"),
        ({"wgFileExtensions": ["gif"]}, None, "the wiki refuses the picture's kind"),
        ({}, b"no picture at all", "the wiki refuses the picture's content"),
        ({}, b"", "the picture is empty"),
        ({"wgRevokePermissions": {"user": {"upload": True}}}, None, "may not do that"),
        (
            {"wgRateLimits": {"upload": {"user": [0, 60]}}},
            None,
            "limits how often the bot may write",
        ),
    ],
    ids=["off", "kind", "content", "empty", "right", "rate"],
)
def test_a_rejected_upload_is_told_and_the_page_stays(
    page: Strict, settings: dict[str, object], data: bytes | None, reason: str
) -> None:
    """Pictures come first: a page never shows one that the wiki does not have."""
    item = picture(40 + len(reason) + len(settings))
    item = item if data is None else item.model_copy(update={"data": data})
    page.let(**settings)
    error = refused(page, uploads=(item,))
    assert reason in error.reason
    assert error.value == f"File:{item.name}"
    made_good(page)


@pytest.mark.root
def test_a_picture_that_is_too_large_is_told_before_anything_is_sent(page: Strict) -> None:
    """From the limit that the wiki tells."""
    page.bot.site["maxuploadsize"] = 10
    error = refused(page, uploads=(picture(36),))
    assert "the wiki takes 10 at most" in error.reason
    assert "$wgMaxUploadSize" in error.remedy
    assert not [body for body in page.wire.bodies if "action=edit" in body]


# -- the session -----------------------------------------------------------------------------------


@pytest.mark.root
def test_a_token_that_has_gone_bad_is_asked_for_again(page: Strict) -> None:
    """The session logs in once more and the edit is made, once."""
    revision = page.bot.read(page.page).revision
    assert revision
    page.bot.tokens["csrf"] = "0123456789abcdef0123456789abcdef01234567+\\"
    saved = page.bot.save(page.page, f"{revision.text}\nnew", base=revision.number, summary="")
    assert saved
    assert saved.before == revision.number
    assert page.revisions[0].user == session.BOT


@pytest.mark.root
def test_a_session_that_cannot_be_renewed_is_told(
    page: Strict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and without the password that was refused."""
    wrong = "f" * 32
    monkeypatch.setattr(session, "credentials", lambda lab, student: (f"{session.BOT}@{session.APP}", session.SecretStr(wrong)))  # fmt: skip
    page.bot.connection.cookies.clear()
    error = refused(page)
    assert "refuses the bot password" in error.reason
    assert wrong not in str(error)
    assert len([body for body in page.wire.bodies if "action=login" in body]) == 1


@pytest.mark.root
def test_the_wiki_s_lag_is_waited_for_but_not_for_long(
    page: Strict, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real wiki's Retry-After is kept to; what does not pass is an error, and nothing was done."""
    monkeypatch.setattr(transport, "LAG", -2)  # less than a wiki without replicas has (-1)
    error = refused(page)
    assert error.reason.startswith("the wiki's database lags behind (maxlag")
    assert clock == [5.0, 5.0]
    monkeypatch.setattr(transport, "LAG", 5)
    made_good(page)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between requests, in seconds, which are not made."""
    waits: list[float] = []
    clock = SimpleNamespace(sleep=waits.append, monotonic=time.monotonic)
    monkeypatch.setattr(transport, "time", clock)
    return waits


@pytest.fixture
def proxy(strict: Lab) -> Iterator[Proxy]:
    """A proxy in front of the wiki."""
    with proxy_to(strict.wiki.port) as made:
        yield made


@pytest.mark.root
@pytest.mark.parametrize(
    ("status", "after", "waited"),
    [
        (503, "3", [3.0, 3.0]),
        (503, "3600", []),
        (503, "soon", [0.0, 0.5]),
        (429, "2", [2.0, 2.0]),
        (500, "", [0.0, 0.5]),
        (404, "2", []),
        (302, "2", []),
    ],
)
def test_what_stands_before_a_wiki_is_kept_to_but_not_for_long(
    proxy: Proxy, clock: list[float], status: int, after: str, waited: list[float]
) -> None:
    """A server's Retry-After is kept to where it is bearable; a question is asked three times at most."""
    headers = {"Retry-After": after, "Location": "http://127.0.0.1:1/login?next=x"}
    proxy.given = (status, b"busy", headers if after else {})
    proxy.arm(1, "given", lasting=True)
    said = {302: "sends on to http://127.0.0.1/login", 404: "no MediaWiki answers there"}
    with pytest.raises(WikiError, match=said.get(status, f"does not answer: HTTP status {status}")):
        asked(proxy)
    assert (clock, proxy.count) == (waited, len(waited) + 1)


def asked(proxy: Proxy) -> None:
    """A question to a wiki behind the proxy."""
    site = MediaWiki(f"http://{proxy.host}/w/api.php", own=True)
    site.close()


@pytest.mark.root
def test_a_refusal_before_the_wiki_acted_is_tried_again(
    page: Strict, proxy: Proxy, clock: list[float]
) -> None:
    """Too many requests: the edit waits and is made, once."""
    revision = page.bot.read(page.page).revision
    assert revision
    proxy.given = (429, b"slowly, please", {"Retry-After": "1"})
    proxy.arm(1, "given")
    page.bot.host = proxy.host
    assert page.bot.save(page.page, revision.text + "\nnew", base=revision.number, summary="")
    assert proxy.count == 2
    assert clock == [1.0]
    assert len(page.revisions) == len({item.text for item in page.revisions})


# -- pure ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(refusals._MEANING))
def test_each_refusal_says_what_to_do(code: str) -> None:
    """Every known code has a reason in words and a remedy; the wiki's own words are kept, in short."""
    error = refusals.refusal("Report", code, "its own words " * 100)
    assert error.remedy
    assert f"({code}: its own words" in error.reason
    assert len(error.reason) <= 600


def test_no_token_is_in_a_refusal_s_words() -> None:
    """What the wiki echoes of a request is no secret."""
    error = refusals.unsaved("Report", {"result": "Failure", "code": "x", "token": "secret+\\"})
    assert "secret" not in str(error)
