"""The bot's password and cookies stay where they belong; https wikis are verified; the bot may do little."""

from __future__ import annotations

import json
import logging
import ssl
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run
from labkit.errors import ConfigError, WikiError
from labkit.report.batch.notebook import lab_file
from labkit.wiki import server
from labkit.wiki.client import session
from labkit.wiki.client.mediawiki import MediaWiki
from labkit.wiki.client.session import api_url
from labkit.wiki.merge import fences
from labkit.wiki.publish import publishing
from labkit.wiki.server import credentials, installation
from labkit.wiki.server.configuration import Folders
from tests.desks import picture
from tests.faults import Proxy, proxy_to

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[1]
WRONG = "0123456789abcdef0123456789abcdef"
LOGIN = f"{session.BOT}@{session.APP}"
WEB = fences.block("05-web", "== Web sites ==", "Six pages.")
#: Where passwords may stand: labkit's own file, MediaWiki's settings (the database's), its database.
THEIR_OWN = ("passwords.json", "LocalSettings.php", ".sqlite", ".sqlite-wal", ".sqlite-shm")


def password(lab: Lab) -> str:
    """The bot password."""
    return session.passwords(lab).publish.get_secret_value()


def existing(lab: Lab, url: str) -> Lab:
    """A lab that uses an existing wiki at that address."""
    wiki = lab.wiki.model_copy(update={"url": url, "page": "Secrets"})
    return lab.model_copy(update={"wiki": wiki})


def behind(proxy: Proxy, lab: Lab, scheme: str = "http") -> Lab:
    """A lab that uses the wiki behind a proxy as an existing one."""
    return existing(lab, f"{scheme}://{proxy.host}/w/api.php")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the variables that hold an existing wiki's bot password."""

    def give(word: str) -> None:
        monkeypatch.setenv(session.USER_VARIABLE, LOGIN)
        monkeypatch.setenv(session.PASSWORD_VARIABLE, word)

    return give


def told(error: BaseException) -> str:
    """All that a traceback can tell of an error, the values of the functions' variables included (but
    for the test's own)."""
    inside = error.__traceback__.tb_next if error.__traceback__ else None
    lines = traceback.TracebackException(type(error), error, inside, capture_locals=True)
    parts = ["".join(lines.format()), repr(error), str(error), repr(vars(error))]
    for inner in (error.__cause__, error.__context__):
        parts += [told(inner)] if inner else []
    return "\n".join(parts)


def files_with(word: str, *folders: Path) -> list[str]:
    """The files below these folders that hold a word, but for those that passwords belong in."""
    found = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    others = (path for path in found if not path.name.endswith(THEIR_OWN))
    return [str(path) for path in others if word.encode() in path.read_bytes()]


def test_the_command_tells_no_password(
    wiki_lab: Lab, tmp_path: Path, watched: AbstractContextManager[set[str]]
) -> None:
    """Not in what it prints, whatever happens and with --debug, not in a file, not in a process list."""
    word, url = password(wiki_lab), api_url(wiki_lab)
    (tmp_path / "lab.toml").write_text(lab_file(wiki_lab))
    (tmp_path / "existing.toml").write_text(lab_file(existing(wiki_lab, url)))
    (tmp_path / "away.toml").write_text(lab_file(existing(wiki_lab, "http://127.0.0.1:1/api.php")))
    base = [sys.executable, "-m", "labkit", "publish", "--debug"]
    base += ["--set", f"outputs={tmp_path}/outputs"]
    # the wrong one comes first: without a page something is to be written, for which one logs in
    calls = (("existing", WRONG, 1), ("existing", word, 0), ("lab", word, 0), ("away", word, 1))
    said = ""
    with watched as commands:
        for name, given, status in calls:
            argv = [*base, "-c", str(tmp_path / f"{name}.toml")]
            env = {
                "PYTHONPATH": str(ROOT),
                session.USER_VARIABLE: LOGIN,
                session.PASSWORD_VARIABLE: given,
            }
            done = run.run(argv, cwd=tmp_path, env=env, ok=range(256), quiet=True)
            assert done.status == status, done.stderr
            said += done.stdout + done.stderr
    assert "Traceback" in said
    for secret in (word, WRONG):
        assert secret not in said
        assert not [line for line in commands if secret in line]
        assert not files_with(secret, tmp_path, wiki_lab.state_dir, wiki_lab.run_dir)


def test_a_session_tells_neither_password_nor_cookies(
    wiki_lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in any library's log at its most talkative, not in a file that anybody writes meanwhile."""
    caplog.set_level(logging.DEBUG)
    with closing((site := session.open(wiki_lab)).connection):
        done = publishing.apply(site, "Cookies", (WEB,), (picture(61),), folder=tmp_path)
        secrets = [password(wiki_lab), *site.connection.cookies.values()]
        secrets = [secret for secret in secrets if len(secret) > 8]
        assert len(secrets) > 1
        shown = caplog.text + done.model_dump_json() + repr(site) + repr(vars(site))
        assert not [secret for secret in secrets if secret in shown]
        assert not [
            secret for secret in secrets if files_with(secret, tmp_path, wiki_lab.state_dir)
        ]


@pytest.mark.parametrize("place", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["no reply", "HTML", "given"])
def test_a_login_that_fails_tells_nothing_of_the_password(
    wiki_lab: Lab, environment: Callable[[str], None], kind: str, place: int
) -> None:
    """At whichever request and however: neither error nor traceback nor what led to it, variables and all."""
    word = password(wiki_lab)
    environment(word)
    with proxy_to(wiki_lab.wiki.port) as proxy:
        proxy.given = (200, json.dumps({"error": {"code": "x", "info": "y"}}).encode(), {})
        proxy.arm(place, kind, lasting=True)
        with pytest.raises(WikiError) as caught:
            session.open(behind(proxy, wiki_lab))
        assert place < 3 or any(word.encode() in body for body in proxy.words)
    assert word not in told(caught.value)


def test_a_wrong_password_is_not_told(wiki_lab: Lab, environment: Callable[[str], None]) -> None:
    """The error names the account and where its password comes from."""
    environment(WRONG)
    with pytest.raises(WikiError, match="refuses the bot password") as caught:
        session.open(existing(wiki_lab, api_url(wiki_lab)))
    assert WRONG not in told(caught.value)
    assert LOGIN in caught.value.value


def test_an_edit_that_fails_tells_no_cookie(wiki_lab: Lab, tmp_path: Path) -> None:
    """Of a request that was cut off nothing is told but that there was no reply."""
    with (
        proxy_to(wiki_lab.wiki.port) as proxy,
        closing((site := session.open(wiki_lab)).connection),
    ):
        secrets = [secret for secret in site.connection.cookies.values() if len(secret) > 8]
        site.host = proxy.host
        proxy.arm(3, "no reply", lasting=True)
        with pytest.raises(WikiError, match="does not answer") as caught:
            publishing.apply(site, "Cut off", (WEB,), folder=tmp_path)
    assert secrets
    assert not [secret for secret in secrets if secret in told(caught.value)]
    assert "token" not in str(caught.value)


def test_an_address_with_a_password_is_refused(make_lab: Callable[..., Lab]) -> None:
    """An address is shown everywhere: no password belongs in it."""
    with pytest.raises(ConfigError, match=r"wiki\.url"):
        make_lab(wiki_url=f"https://bot:{WRONG}@wiki.example/api.php")


# -- https -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for loopback that nobody but itself vouches for, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    run.run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", folder / "key.pem", "-out", folder / "certificate.pem",
    ])  # fmt: skip
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "certificate.pem").read_text())
    return both


@pytest.fixture
def front(wiki_lab: Lab, certificate: Path) -> Iterator[Proxy]:
    """An https front of the wiki's, with that certificate."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with proxy_to(wiki_lab.wiki.port, tls=tls) as proxy:
        yield proxy


@pytest.fixture
def trusted(
    wiki_lab: Lab,
    certificate: Path,
    environment: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The certificate as one that the machine trusts."""
    environment(password(wiki_lab))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return certificate


@pytest.mark.parametrize(
    "switch", ["", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PYTHONHTTPSVERIFY"]
)
def test_a_certificate_that_nobody_vouches_for_is_refused(
    wiki_lab: Lab, front: Proxy, environment: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch, switch: str,
) -> None:  # fmt: skip
    """With the reason and the remedy, before a word is sent; nothing in the environment turns that off."""
    environment(password(wiki_lab))
    if switch:
        monkeypatch.setenv(switch, "0" if switch.startswith("PYTHON") else "")
    lab = behind(front, wiki_lab, "https")
    for ask_it in (session.open, session.site_info, server.up):
        with pytest.raises(WikiError) as caught:
            ask_it(lab)
        assert caught.value.reason == "its certificate cannot be verified: self-signed certificate"
        assert "update-ca-certificates" in caught.value.remedy
        assert "SSL_CERT_FILE" in caught.value.remedy
    assert front.words == []


def test_a_certificate_that_the_machine_trusts_is_taken(
    wiki_lab: Lab, front: Proxy, trusted: Path, tmp_path: Path
) -> None:
    """What the remedy says helps: the wiki is published to over https."""
    lab = behind(front, wiki_lab, "https")
    assert session.site_info(lab).version.startswith("MediaWiki ")
    with closing((site := session.open(lab)).connection):
        assert publishing.apply(site, "By https", (WEB,), folder=tmp_path).edited
    assert len(front.words) > 6


def test_no_word_follows_a_redirect_to_another_address(
    wiki_lab: Lab, environment: Callable[[str], None]
) -> None:
    """A login that is sent on elsewhere is an error: the password does not go there."""
    environment(password(wiki_lab))
    with proxy_to(wiki_lab.wiki.port) as proxy, proxy_to(wiki_lab.wiki.port) as other:
        proxy.given = (307, b"", {"Location": f"http://{other.host}/w/api.php"})
        proxy.arm(3, "given", lasting=True)
        with pytest.raises(WikiError, match="the wiki sends on to"):
            session.open(behind(proxy, wiki_lab))
        assert other.count == 0


# -- the bot's rights ------------------------------------------------------------------------------


def log_in_with(lab: Lab, grants: tuple[str, ...], word: str) -> MediaWiki:
    """A session by a bot password of the bot's that has these grants."""
    folders = Folders(lab)
    bot = {"name": session.BOT, "app": "less", "password": word, "grants": ["basic", *grants]}
    credentials.as_server(
        [credentials.php_program(), folders.root / "accounts.php"],
        env={
            "MW_INSTALL_PATH": str(installation.program(lab)),
            "MW_CONFIG_FILE": str(folders.settings),
        },
        stdin=json.dumps({"accounts": [], "bot": bot}),
    )
    site = session.connect(lab)
    site.login(f"{session.BOT}@less", word)
    return site


@pytest.mark.parametrize(
    ("grants", "refused"),
    [
        (credentials.GRANTS, ""),
        *((tuple(g for g in credentials.GRANTS if g != gone), gone) for gone in credentials.GRANTS),
        (("editpage", "uploadfile"), "createeditmovepage"),
    ],
)
def test_each_grant_of_the_bot_s_is_needed(
    wiki_lab: Lab, tmp_path: Path, grants: tuple[str, ...], refused: str
) -> None:
    """With any of them gone, or exchanged for a lesser one, the first publication is refused."""
    title, item = f"Grants {'-'.join(grants)}", picture(62 + len("".join(grants)))
    with closing((site := log_in_with(wiki_lab, grants, "ab" * 16)).connection):
        if not refused:
            assert publishing.apply(site, title, (WEB,), (item,), folder=tmp_path).edited
            return
        with pytest.raises(WikiError, match="the bot's account may not"):
            publishing.apply(site, title, (WEB,), (item,), folder=tmp_path)
