"""The lab's own wiki: a real MediaWiki on loopback, served by an apache2 of the lab's own."""

from __future__ import annotations

import http.client
import json
import signal
from pathlib import Path

from labkit import daemon, journal, undo
from labkit.errors import WikiError
from labkit.files import write_atomically
from labkit.lab import Lab
from labkit.result import Outcome, Record, action
from labkit.wiki import accounts, install, settings
from labkit.wiki.accounts import Passwords
from labkit.wiki.folders import ADDRESS, Folders, api_url, origin, require_reachable, site_name


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


@action("wiki.up")
def up(lab: Lab) -> Outcome[WikiServer]:
    """The wiki answers: installed when there is none, started when it is down.

    An existing wiki (``wiki.url``) is only asked. Raises :class:`MachineError` naming the process
    that has the port, :class:`WikiError` when MediaWiki cannot be installed.
    """
    if lab.wiki.url:
        raise NotImplementedError
    with journal.lock(lab.run_dir, "wiki"):
        folders = Folders.of(lab)
        _require_port(lab, folders)
        installed = _prepare(lab, folders)
        started = daemon.start(lab, _apache(folders), lambda: problem(lab), patience=60)
    server = describe(lab)
    done = "installed and started" if installed else "started" if started else "already up"
    return Outcome(
        value=server,
        subject=server.address,
        summary=f"{server.version} on {server.database} answers at {server.address} ({done}).",
        changed=installed or started,
    )


@action("wiki.down")
def down(lab: Lab) -> Outcome[bool]:
    """The wiki's servers have ended; its pages, files and passwords stay."""
    with journal.lock(lab.run_dir, "wiki"):
        ran = daemon.stop(lab, _apache(Folders.of(lab)))
    said = "has ended; its pages and files are kept" if ran else "was not up"
    return Outcome(value=ran, subject=origin(lab), summary=f"The wiki {said}.", changed=ran)


def describe(lab: Lab) -> WikiServer:
    """What the wiki says of itself; raises :class:`WikiError` when it does not answer."""
    general = site_info(lab)
    own = not lab.wiki.url
    return WikiServer(
        api=api_url(lab),
        address=general["base"],
        version=general["generator"],
        database=lab.wiki.database if own else "existing",
        passwords=str(Folders.of(lab).passwords) if own else "",
    )


def problem(lab: Lab) -> str | None:
    """What is wrong with the lab's own wiki now, None when it answers as this lab's."""
    try:
        name = site_info(lab)["sitename"]
    except WikiError as error:
        return error.reason
    return None if name == site_name(lab) else f"answers as another wiki, {name!r}"


def site_info(lab: Lab) -> dict[str, str]:
    """The general information that the lab's own wiki gives (API: Siteinfo)."""
    path = "/w/api.php?action=query&meta=siteinfo&siprop=general&format=json&formatversion=2"
    connection = http.client.HTTPConnection(ADDRESS, lab.wiki.port, timeout=30)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise WikiError(origin(lab), f"answers with HTTP status {reply.status}")
        general = json.loads(text)["query"]["general"]
        return {name: str(general[name]) for name in ("sitename", "generator", "base")}
    except (OSError, http.client.HTTPException) as error:
        raise WikiError(origin(lab), f"does not answer: {error}", "bring it up") from None
    except (ValueError, KeyError):
        raise WikiError(origin(lab), "does not answer as a MediaWiki", "") from None
    finally:
        connection.close()


def _apache(folders: Folders) -> daemon.Daemon:
    return daemon.Daemon(
        name="the wiki's web server",
        argv=("apache2", "-f", str(folders.apache), "-k", "start"),
        config=folders.apache,
        pidfile=folders.pidfile,
        log=folders.logs / "apache2.log",
    )


def _require_port(lab: Lab, folders: Folders) -> None:
    """Raises :class:`MachineError` naming the process when somebody else has the wiki's port."""
    who = daemon.listener(lab.wiki.port, address=ADDRESS)
    own = undo.daemon_pids(str(folders.apache))
    if who is not None and not any(f"process {pid})" in who for pid in own):
        daemon.require_free(lab.wiki.port, netns=None, address=ADDRESS, key="wiki.port")


def _prepare(lab: Lab, folders: Folders) -> bool:
    """Database, accounts and configuration are there; returns whether something had to be made."""
    require_reachable(folders.data)
    install.folders_made(folders)
    passwords = accounts.keep(folders)
    program, made = install.ensure(lab, passwords)
    changed = _configure(lab, folders, passwords, program)
    if changed and daemon.pid(_apache(folders)):
        daemon.send(_apache(folders), signal.SIGUSR1)
    return made or changed


def _configure(lab: Lab, folders: Folders, passwords: Passwords, program: Path) -> bool:
    local = settings.local_settings(install.settings_of(lab, passwords, folders.data))
    texts = {
        folders.php / "php.ini": settings.php_ini(folders),
        folders.apache: settings.apache(
            folders, port=lab.wiki.port, mediawiki=program, module=accounts.php_module()
        ),
    }
    changed = _differs(folders.settings, local)
    if changed:
        install.private(folders.settings, local)
    for path, text in texts.items():
        if _differs(path, text):
            write_atomically(path, text)
            changed = True
    return changed


def _differs(path: Path, text: str) -> bool:
    return not path.exists() or path.read_text(encoding="utf-8") != text
