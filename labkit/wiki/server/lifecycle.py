"""Starts, observes and ends the lab's own wiki: MediaWiki on loopback, with its web server and database."""

from __future__ import annotations

import functools
import hashlib
import signal
from pathlib import Path

from labkit.checks import Check
from labkit.core import daemon, journal, run, undo
from labkit.core.files import text_of, write_atomically
from labkit.core.result import Outcome, action
from labkit.errors import FarmError, WikiError, excerpt
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client import session
from labkit.wiki.client.protocol import SiteInfo
from labkit.wiki.client.session import ADDRESS, Passwords, api_url, origin
from labkit.wiki.server import configuration, credentials, databases, installation, rights
from labkit.wiki.server.configuration import Folders, require_reachable

#: Seconds until a wiki that was started and does not answer is an error.
PATIENCE = 30.0


class WikiServer(Record):
    """A wiki that answers: where a program (``api``) and a person (``address``) find it.

    ``passwords`` is the file that holds the accounts' passwords, '' for an existing wiki;
    ``database`` is sqlite, mariadb or existing.
    """

    api: str
    address: str
    version: str
    database: str
    passwords: str


class WikiStatus(Record):
    """The observed status of a wiki: ``reason`` says why it is not ``up``; ``answers`` is whether any wiki answers at
    its address. A process id is None if that server does not run or belongs to an existing wiki."""

    up: bool
    answers: bool
    reason: str
    address: str
    database: str
    installed: bool
    apache: int | None = None
    mariadb: int | None = None


class LoginPage(Record):
    """Where a person logs in, as whom, and which file has the passwords (root reads it)."""

    url: str
    accounts: tuple[str, ...]
    passwords: str


@action("wiki.up")
def up(lab: Lab) -> Outcome[WikiServer]:
    """Installs the lab's wiki when it is missing and starts it when it is down.

    An existing wiki (``wiki.url``) is only asked whether it answers. A second call changes nothing.

    :returns: where a person (``value.address``) and a program (``value.api``) find the wiki, its version and database.
    :raises MachineError: another process has the port; the error names it.
    :raises WikiError: MediaWiki cannot be installed, or does not answer.

    Example::

        result = server.up(lab)
        result.value.address  # 'http://127.0.0.1:8060/wiki/'
    """
    info, done = _up(lab)
    own = not lab.wiki.url
    server = WikiServer(
        api=api_url(lab),
        address=info.address,
        version=info.version,
        database=lab.wiki.database if own else "existing",
        passwords=str(Folders(lab).passwords) if own else "",
    )
    return Outcome(
        value=server,
        subject=server.address,
        summary=f"{server.version} ({server.database}) answers at {server.address}: {done or 'already up'}.",
        changed=bool(done),
        checks=(rights.answers(lab, server.version), *rights.loopback(lab)),
    )


def ready(lab: Lab) -> SiteInfo:
    """Brings the wiki up as :func:`up` does; returns what it says about itself. Costs one request when it is up."""
    return _up(lab)[0]


def _up(lab: Lab) -> tuple[SiteInfo, str]:
    """Brings the wiki up; returns what it says about itself, and what was done ('' for nothing)."""
    if lab.wiki.url:
        return session.site_info(lab), ""
    with journal.lock(lab.run_dir, "wiki"):
        folders = Folders(lab)
        programs = ("apache2", "rotatelogs", "ss", "setpriv", "apt-cache", "dpkg-deb")
        run.require(*programs, credentials.php_program())
        if folders.database == "mariadb":
            run.require("mariadbd", "mariadb", "mariadb-install-db")
        own = undo.daemon_pids(str(folders.apache))
        daemon.require_free(lab.wiki.port, netns=None, address=ADDRESS, key="wiki.port", own=own)
        installed, changed, renewed = _prepare(lab, folders)
        info, started = _serve(lab, folders, renewed=renewed)
    done = (
        "installed and started" if installed
        else "started" if started
        else "brought up to date" if changed or renewed
        else ""
    )  # fmt: skip
    return info, done


def _serve(lab: Lab, folders: Folders, *, renewed: bool) -> tuple[SiteInfo, bool]:
    """Starts the web server; returns what the wiki says about itself, and whether it had to be started.

    A server that runs with an older configuration reads the new one (SIGUSR1: replies under way are finished).
    """
    if daemon.pid(web_server(folders)):
        info, wrong = _observe(lab)
        if info and not wrong and not renewed:
            return info, False
        daemon.send(web_server(folders), signal.SIGUSR1)
    try:
        started = daemon.start(
            lab, web_server(folders), lambda: _observe(lab)[1], patience=PATIENCE
        )
        return session.site_info(lab), started
    except FarmError as error:
        said = last_complaint(folders.log)
        reason = f"{_observe(lab)[1]}; MediaWiki's own log: {said}" if said else error.reason
        raise WikiError(
            origin(lab), reason, "the logs say why", f"tail {folders.logs}/*.log", code="wiki.down"
        ) from None


def last_complaint(log: Path) -> str:
    """The last exception in MediaWiki's log, without the lines of its trace; '' when it has none."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "from "))]
    return excerpt(lines[-1]) if lines else ""


@action("wiki.down")
def down(lab: Lab) -> Outcome[bool]:
    """Ends the wiki's servers; its pages, files and passwords stay. Returns whether one ran."""
    with journal.lock(lab.run_dir, "wiki"):
        folders = Folders(lab)
        served = daemon.stop(lab, web_server(folders))
        ran = daemon.stop(lab, databases.MariaDB.of(folders).daemon) or served
    said = "has ended; its pages and files are kept" if ran else "was not up"
    return Outcome(value=ran, subject=origin(lab), summary=f"The wiki {said}.", changed=ran)


def status(lab: Lab) -> WikiStatus:
    """Observes the wiki and changes nothing; a wiki that is down is a status, not an error."""
    folders = Folders(lab)
    info, reason = _observe(lab)
    return WikiStatus(
        up=reason is None,
        answers=info is not None,
        reason=reason or "",
        address=lab.wiki.url or f"{origin(lab)}/wiki/",
        database="existing" if lab.wiki.url else lab.wiki.database,
        installed=not lab.wiki.url and folders.data.exists(),
        apache=daemon.pid(web_server(folders)),
        mariadb=daemon.pid(databases.MariaDB.of(folders).daemon),
    )


def login_page(lab: Lab) -> LoginPage:
    """Where a person logs in to the lab's own wiki."""
    return LoginPage(
        url=f"{origin(lab)}/wiki/Special:UserLogin",
        accounts=(session.STUDENT, session.TEACHER, session.ADMINISTRATOR),
        passwords=str(Folders(lab).passwords),
    )


def checks(lab: Lab) -> tuple[Check, ...]:
    """Makes all checks of the wiki; of one that is down, the first check alone."""
    try:
        version = session.site_info(lab).version
    except WikiError as error:
        return (rights.answers(lab, error.reason, up=False),)
    return (
        rights.answers(lab, version),
        *rights.loopback(lab),
        *rights.accounts(lab).checks,
        *rights.database(lab).checks,
        *rights.anonymous(lab).checks,
    )


def _observe(lab: Lab) -> tuple[SiteInfo | None, str | None]:
    """Returns the site information of the wiki at the lab's address (None: no answer) and the problem (None: it is
    the lab's wiki)."""
    try:
        info = session.site_info(lab)
    except WikiError as error:
        return None, error.reason
    written = text_of(Folders(lab).apache)
    if lab.wiki.url or (info.mark and written and f'"{info.mark}"' in written):
        return info, None
    return info, "another wiki, or one with another configuration, answers"


def web_server(folders: Folders) -> daemon.Daemon:
    """The wiki's own apache2."""
    return daemon.Daemon(
        name="the wiki's web server",
        argv=("apache2", "-f", str(folders.apache), "-k", "start"),
        config=folders.apache,
        pidfile=folders.pidfile,
        log=folders.logs / "apache2.log",
    )


def daemons(lab: Lab) -> tuple[daemon.Daemon, ...]:
    """The servers that a lab's own wiki may have."""
    folders = Folders(lab)
    return web_server(folders), databases.MariaDB.of(folders).daemon


def _prepare(lab: Lab, folders: Folders) -> tuple[bool, bool, bool]:
    """Creates or updates database, accounts and configuration, and starts the database's server.

    Returns whether the database had to be installed, whether anything else had to be done, and whether
    passwords or tables were renewed below a running wiki.
    """
    require_reachable(folders.data)
    installation.folders_made(folders)
    require_reachable(folders.data)
    require_reachable(folders.socket)
    passwords = credentials.keep(lab)
    program = installation.program(lab)
    installed = installation.database(lab, passwords, program)
    mended = databases.mend_sqlite(folders.data) if folders.database == "sqlite" else ()
    server = databases.MariaDB.of(folders)
    woken = folders.database == "mariadb" and databases.start(lab, server)
    renewed = installation.renew(lab, passwords, program)
    rewritten = _configure(lab, folders, passwords, program)
    return installed, woken or rewritten or bool(mended), renewed


def _configure(lab: Lab, folders: Folders, passwords: Passwords, program: Path) -> bool:
    """Writes the configuration files that differ; returns whether there was one."""
    local = configuration.local_settings(lab, passwords)
    php = configuration.text("php.ini")
    module, port = credentials.php_module(), lab.wiki.port
    apache = functools.partial(
        configuration.apache, folders, port=port, mediawiki=program, module=module
    )
    mark = hashlib.sha256((local + php + apache(mark="")).encode()).hexdigest()[:16]
    files = {folders.php / "php.ini": php, folders.apache: apache(mark=mark)}
    outdated = [path for path, text in files.items() if text_of(path) != text]
    for path in outdated:
        write_atomically(path, files[path])
    if text_of(folders.settings) != local:
        installation.private(folders.settings, local)
        return True
    return bool(outdated)
