"""Where one lab's wiki has its files, and at which addresses it answers."""

from __future__ import annotations

import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import MachineError
from labkit.model.lab import Lab

#: Debian's web server account (base-passwd): the wiki's PHP runs as it.
USER = "www-data"
ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Folders:
    """The files of one lab's own wiki; nothing is made by naming them."""

    root: Path
    run: Path
    database: str

    @classmethod
    def of(cls, lab: Lab) -> Folders:
        """The wiki's files of a lab."""
        return cls(lab.state_dir / "wiki", lab.run_dir / "wiki", lab.wiki.database)

    @property
    def data(self) -> Path:
        """The database: it is there only when its installation was completed."""
        return self.root / self.database

    @property
    def installed(self) -> Path:
        """What the database was last made fit for: MediaWiki's version, the accounts' passwords."""
        return self.root / f"{self.database}.json"

    @property
    def passwords(self) -> Path:
        """The accounts' passwords, readable by root alone."""
        return self.root / "passwords.json"

    @property
    def pages(self) -> Path:
        """What labkit wrote on the prepared pages."""
        return self.root / "pages.json"

    @property
    def settings(self) -> Path:
        """MediaWiki's LocalSettings.php."""
        return self.root / "LocalSettings.php"

    @property
    def apache(self) -> Path:
        """The web server's configuration."""
        return self.root / "apache2.conf"

    @property
    def php(self) -> Path:
        """The folder of PHP's own ``php.ini``."""
        return self.root / "php"

    @property
    def images(self) -> Path:
        """What was uploaded to the wiki of this database."""
        return self.root / "images" / self.database

    @property
    def cache(self) -> Path:
        """What MediaWiki can make again."""
        return self.root / "cache"

    @property
    def logs(self) -> Path:
        """The logs of web server, PHP and database."""
        return self.root / "logs"

    @property
    def pidfile(self) -> Path:
        """The web server's pid file."""
        return self.run / "apache2.pid"

    @property
    def socket(self) -> Path:
        """MariaDB's socket."""
        return self.run / "mariadb" / "server.sock"


def origin(lab: Lab) -> str:
    """Scheme, host and port of the lab's own wiki; it always answers on loopback, in the
    machine's own network namespace, whatever ``host.netns`` is."""
    return f"http://{ADDRESS}:{lab.wiki.port}"


def api_url(lab: Lab) -> str:
    """The address of ``api.php``: the existing wiki's, else the lab's own."""
    return lab.wiki.url or f"{origin(lab)}/w/api.php"


def site_name(lab: Lab) -> str:
    """What the lab's own wiki calls itself."""
    return f"labkit {lab.name}"


def owned(path: Path, mode: int) -> None:
    """A folder of the web server's account, with that mode, is there."""
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
                "put `state`, `cache` and `run` below folders that everybody may enter, or `chmod o+x` it",
                f"ls -ld {folder}",
                code="machine.folder-closed",
            )
