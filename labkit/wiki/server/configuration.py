"""The files of the lab's own wiki: where they lie, and the configuration texts of MediaWiki, PHP and the web server.

The texts are made from the templates ``LocalSettings.php.j2`` and ``apache2.conf.j2`` beside this module.
"""

from __future__ import annotations

import functools
import pwd
import shutil
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from labkit.core import accesslog
from labkit.errors import MachineError
from labkit.model.lab import Lab
from labkit.wiki.client.session import ADDRESS, MARK, TEACHERS, Passwords, origin, passwords_file

#: Debian's web server account (base-passwd): the wiki's PHP runs as it.
USER = "www-data"
#: MariaDB's database and account for the wiki: without an underscore, which in a GRANT stands for any one character.
DATABASE = ACCOUNT = "labkitwiki"
#: What MediaWiki's package bundles and the report needs.
EXTENSIONS = ("Cite", "ParserFunctions", "SyntaxHighlight_GeSHi", "WikiEditor", "Math")
#: MediaWiki's own entry points that are served; nothing else of its folder runs.
ENTRIES = ("index", "api", "load", "rest", "thumb", "opensearch_desc")
#: Its folders of scripts and styles for the browser.
ASSETS = ("resources", "skins", "extensions")
#: apache2's modules, in Debian's file names.
MODULES = (
    "mpm_prefork", "authz_core", "alias", "dir", "mime", "env", "headers", "setenvif", "filter",
    "deflate", "reqtimeout",
)  # fmt: skip
#: What the wiki is called by who may read it (a regular expression): loopback, by whichever port it is reached.
NAMES = r"127\.0\.0\.1|localhost|\[::1\]"
#: Processes of the web server, one for each request that it has in hand; the others wait in the order in which they
#: came (ListenBacklog: 511).
WORKERS = 32
#: How long a client may take to send a request's header, and its body (mod_reqtimeout; seconds, and bytes a second
#: for which it gets more): N slow clients keep another one waiting for N / WORKERS seconds.
PATIENCE = "header=1-4,MinRate=4000 body=5,MinRate=20000"


class Folders:
    """The paths of the lab's own wiki.

    ``data`` is the database, there only when MediaWiki's installer has completed it; ``installed`` says for which MediaWiki and
    passwords it was last brought up to date. ``passwords`` root alone reads; ``pages`` has what labkit wrote on the prepared pages; ``settings`` is
    LocalSettings.php, ``apache`` the web server's configuration, ``php`` the folder of PHP's own php.ini; ``images``
    are the uploads of this database, ``cache`` what MediaWiki can make again; ``logs`` are those of web server, PHP,
    MediaWiki (``log``) and database. ``pidfile`` is the web server's, ``socket`` MariaDB's.
    """

    def __init__(self, lab: Lab) -> None:
        self.root = root = lab.state_dir / "wiki"
        self.run = run = lab.run_dir / "wiki"
        self.database = lab.wiki.database
        self.data = root / self.database
        self.installed = root / f"{self.database}.json"
        self.passwords = passwords_file(lab)
        self.pages = root / "pages.json"
        self.settings = root / "LocalSettings.php"
        self.apache = root / "apache2.conf"
        self.php = root / "php"
        self.images = root / "images" / self.database
        self.cache = root / "cache"
        self.logs = root / "logs"
        self.log = self.logs / "mediawiki.log"
        self.pidfile = run / "apache2.pid"
        self.socket = run / "mariadb" / "server.sock"


def owned(path: Path, mode: int) -> None:
    """Creates a folder with this mode that the web server's account owns."""
    path.mkdir(parents=True, exist_ok=True)
    shutil.chown(path, USER, USER)
    path.chmod(mode)


def require_reachable(path: Path) -> None:
    """Raises :class:`MachineError` when the web server's account cannot enter a folder above ``path``."""
    account = pwd.getpwnam(USER)
    for folder in reversed(path.parents):
        if not folder.exists():
            return
        status = folder.stat()
        open_to = status.st_mode & 0o001
        own = status.st_uid == account.pw_uid and status.st_mode & 0o100
        group = status.st_gid == account.pw_gid and status.st_mode & 0o010
        if not (open_to or own or group):
            raise MachineError(
                str(folder),
                f"the web server's account {USER} cannot enter this folder, and the wiki lies below it",
                "put `state`, `cache` and `run` below folders that every user may enter, or `chmod o+x` it",
                f"ls -ld {folder}",
                code="machine.folder-closed",
            )


def local_settings(lab: Lab, passwords: Passwords) -> str:
    """LocalSettings.php: closed to anonymous edits and sign-ups, uploads on, no request to other machines."""
    return text(
        "LocalSettings.php.j2", site=site_name(lab), origin=origin(lab), passwords=passwords,
        folders=Folders(lab), account=ACCOUNT, extensions=EXTENSIONS, teachers=TEACHERS,
    )  # fmt: skip


def site_name(lab: Lab) -> str:
    """The name of the lab's own wiki."""
    return f"labkit {lab.name}"


def php(value: object) -> str:
    """A text as a PHP literal."""
    plain = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return "'" + plain.replace("\\", "\\\\").replace("'", "\\'") + "'"


def apache(folders: Folders, *, port: int, mediawiki: Path, module: Path, mark: str) -> str:
    """The web server's configuration: loopback alone, MediaWiki's entry points, its styles and
    scripts, the uploads; nothing else of any folder is served. ``module`` is Debian's PHP module,
    ``mark`` is what each reply says in :data:`~labkit.wiki.client.session.MARK`."""
    return text(
        "apache2.conf.j2", folders=folders, address=ADDRESS, port=port, modules=MODULES, module=module,
        user=USER, workers=WORKERS, patience=PATIENCE, header=MARK, mark=mark, mediawiki=mediawiki,
        errors=accesslog.cut(f"{folders.logs}/apache2.log"), entries=ENTRIES, assets=ASSETS, names=NAMES,
        accesses=accesslog.rotated(f"{folders.logs}/access.log"),
        served=[*(mediawiki / name for name in ASSETS), folders.images],
    )  # fmt: skip


def text(template: str, /, **values: Any) -> str:
    """Renders a template of this folder with these values."""
    return str(_environment().get_template(template).render(values))


@functools.cache
def _environment() -> Any:
    import jinja2  # which takes a while

    made = jinja2.Environment(  # noqa: S701 - no HTML
        loader=jinja2.PackageLoader("labkit.wiki.server", ""),
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters["php"] = php
    return made
