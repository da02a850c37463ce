"""What a trial lays over the image that it tries: a site, and what its questions need. Pure but for :func:`lay`.

It is a layer of its own below the container's writable one, which so holds what was written by the
container alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.farm.images import tarball
from labkit.model import sites
from labkit.model.lab import Lab

#: Where the server of a trial reads further configuration, which the host may change meanwhile.
CONFIGURATION = "/etc/apache2/survival"
#: The folder of the trial's own pages.
PAGES = "var/www/html/survival"
#: A page whose folder's own configuration is no configuration: the server answers 500.
BROKEN = "/survival/broken/"
#: A file that takes longer than the buffers of a connection hold (bytes): 4 MB each at most (tcp(7)).
LARGE, LARGE_SIZE = "/survival/large.bin", 24_000_000
#: Two names, by whom each is resolved, and the address of the container's own that it stands for.
NAMES: Mapping[str, str] = {"dns": "127.0.0.2", "hosts": "127.0.0.3"}
#: What the server says at each of those addresses, when it knows them.
NAMED = "/name.txt"


def host_name(lab: Lab, by: str) -> str:
    """The name that is resolved ``by`` dns or hosts."""
    return f"by-{by}.survival.{lab.domain}"


def files(lab: Lab, site: str) -> dict[str, str]:
    """The site's own files and those of the questions to every server: path -> text."""
    return {
        **sites.files(lab, lab.site(site)),
        "etc/apache2/sites-enabled/zz-survival.conf": (
            f"<Directory /{PAGES}/broken>\n    AllowOverride All\n</Directory>\n"
            f"IncludeOptional {CONFIGURATION}/*.conf\n"
        ),
        f"{PAGES}/broken/.htaccess": "ThisIsNoDirective\n",
        f"{CONFIGURATION[1:]}/.keep": "",
    }


def naming_files(lab: Lab) -> dict[str, str]:
    """What a server needs that is reached by names: virtual hosts that are known by name alone.

    Apache looks a virtual host's name up when it reads its configuration (dns-caveats.html of its manual).
    """
    hosts = "".join(
        f"<VirtualHost {host_name(lab, by)}:80>\n    ServerName {by}\n"
        f"    DocumentRoot /{PAGES}/{by}\n</VirtualHost>\n"
        for by in NAMES
    )
    return {
        "etc/apache2/sites-enabled/zz-names.conf": hosts,
        "etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n",
        "etc/hosts": f"127.0.0.1 localhost\n{NAMES['hosts']} {host_name(lab, 'hosts')}\n",
        **{f"{PAGES}/{by}{NAMED}": f"{by}\n" for by in NAMES},
    }


def lay(place: Path, texts: Mapping[str, str], lower: Sequence[Path]) -> None:
    """The files are in ``place``, their folders with the owner and mode that they have in ``lower``."""
    place.mkdir(parents=True)
    for name in tarball.folders(texts):
        folder = place / name
        folder.mkdir()
        known = next((root / name for root in lower if (root / name).is_dir()), None)
        if known is not None:
            seen = known.stat()
            os.chown(folder, seen.st_uid, seen.st_gid)
            folder.chmod(seen.st_mode & 0o7777)
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8")
    large = place / PAGES / Path(LARGE).name
    with large.open("wb") as file:
        file.truncate(LARGE_SIZE)
