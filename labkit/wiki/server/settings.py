"""The configuration texts of the wiki: MediaWiki's, PHP's and the web server's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from labkit.core import accesslog
from labkit.records import Record
from labkit.wiki.client.accounts import TEACHERS
from labkit.wiki.client.ask import MARK
from labkit.wiki.client.folders import ADDRESS, USER, Folders
from labkit.wiki.server.mariadb import ACCOUNT, DATABASE

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


class Settings(Record):
    """What one wiki's LocalSettings.php is made of; ``data`` is SQLite's folder."""

    name: str
    origin: str
    database: str
    data: Path
    socket: Path
    images: Path
    cache: Path
    log: Path
    secret_key: SecretStr
    upgrade_key: SecretStr
    database_password: SecretStr


def local_settings(settings: Settings) -> str:
    """LocalSettings.php: closed to anonymous edits and sign-ups, uploads on, asking nobody outside."""
    lines = [
        "<?php",
        "# Written by labkit at each start of the wiki: a change made here is lost.",
        "if ( !defined( 'MEDIAWIKI' ) ) { exit; }",
        *(f"${name} = {php(value)};" for name, value in _variables(settings).items()),
        *(_sqlite(settings) if settings.database == "sqlite" else _mariadb(settings)),
        "wfLoadSkin( 'Vector' );",
        *(f"wfLoadExtension( {php(name)} );" for name in EXTENSIONS),
        *_rights(),
        *_offline(settings.origin),
        *(
            f"$wgDebugLogGroups[{php(group)}] = {php(settings.log)};"
            for group in ("exception", "error", "fatal")
        ),
    ]
    return "\n".join(lines) + "\n"


def php(value: object) -> str:
    """A value as a PHP literal: text, number, truth value, a list or a mapping of them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, SecretStr):
        return php(value.get_secret_value())
    if isinstance(value, Mapping):
        return f"[{', '.join(f'{php(key)} => {php(item)}' for key, item in value.items())}]"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(php(item) for item in value)}]"
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _variables(settings: Settings) -> Mapping[str, object]:
    return {
        "wgSitename": settings.name,
        "wgServer": settings.origin,
        "wgScriptPath": "/w",
        "wgResourceBasePath": "/w",
        "wgArticlePath": "/wiki/$1",
        "wgLanguageCode": "en",
        "wgLocaltimezone": "UTC",
        "wgDefaultSkin": "vector",
        "wgFavicon": "/w/resources/assets/mediawiki.png",  # not /favicon.ico: nothing is served there
        "wgLogos": {"1x": "/w/resources/assets/mediawiki.png"},
        "wgSecretKey": settings.secret_key,
        "wgUpgradeKey": settings.upgrade_key,
        "wgCacheDirectory": settings.cache,
        "wgDBerrorLog": settings.log,
        "wgMainCacheType": 3,  # CACHE_ACCEL: APCu
        "wgParserCacheType": 1,  # CACHE_DB: the report need not be read anew after a restart
        "wgSessionCacheType": 1,  # CACHE_DB: a person stays logged in when the web server restarts
        "wgCachePages": False,  # a browser's copy is told from a newer one by the second only: the old one would stay
        "wgJobRunRate": 1,
        "wgEnableUploads": True,
        "wgUploadDirectory": settings.images,
        "wgUploadPath": "/images",
        "wgFileExtensions": ["png", "jpg", "jpeg", "gif"],
        "wgUseImageMagick": False,  # PHP's own gd makes the thumbnails
        "wgDiff3": "/usr/bin/diff3",
        "wgPygmentizePath": "/usr/bin/pygmentize",
        "wgRateLimits": [],  # four known accounts, and nobody else may write
    }


def _rights() -> list[str]:
    """Everybody on this machine reads; who has an account edits; nobody signs up. A picture is replaced by
    administrators alone: the report's are named by the hashes of their contents."""
    closed = ("edit", "createpage", "createtalk", "createaccount", "upload")
    return [f"$wgGroupPermissions['*'][{php(right)}] = false;" for right in closed] + [
        "$wgGroupPermissions['user']['reupload'] = false;",
        "$wgGroupPermissions['sysop']['createaccount'] = true;",
        "$wgGroupPermissions['sysop']['reupload'] = true;",
        f"$wgGroupPermissions[{php(TEACHERS)}]['read'] = true;",
    ]


def _offline(origin: str) -> list[str]:
    """No request leaves the machine, no mail is sent. MediaWiki 1.43 ends with an exception when the address of
    Math's service is empty: it is given the wiki's own."""
    values = {
        "wgPingback": False,
        "wgEnableEmail": False,
        "wgUseInstantCommons": False,
        "wgAllowExternalImages": False,
        "wgAllowCopyUploads": False,
        "wgMathValidModes": ["source"],
        "wgMathDisableTexFilter": "always",
        "wgMathFullRestbaseURL": origin,
        "wgMathMathMLUrl": origin,
        "wgMathLaTeXMLUrl": origin,
    }
    return [*(f"${name} = {php(value)};" for name, value in values.items()),
            "$wgDefaultUserOptions['math'] = 'source';"]  # fmt: skip


def _sqlite(settings: Settings) -> list[str]:
    """SQLite with files of their own for caches, messages and jobs, as MediaWiki's installer writes
    them: one file has one writer at a time."""

    def server(name: str) -> str:
        return (
            f"[ 'type' => 'sqlite', 'dbname' => {php(name)}, 'tablePrefix' => '',"
            f" 'variables' => [ 'synchronous' => 'NORMAL' ], 'trxMode' => 'IMMEDIATE',"
            f" 'flags' => 0, 'dbDirectory' => {php(settings.data)} ]"
        )

    return [
        "$wgDBtype = 'sqlite';",
        "$wgDBname = 'wiki';",
        f"$wgSQLiteDataDir = {php(settings.data)};",
        "$wgObjectCaches[CACHE_DB] = [ 'class' => SqlBagOStuff::class,"
        f" 'loggroup' => 'SQLBagOStuff', 'server' => {server('wikicache')} ];",
        "$wgLocalisationCacheConf['store'] = 'array';",
        "$wgJobTypeConf['default'] = [ 'class' => 'JobQueueDB', 'claimTTL' => 3600,"
        f" 'server' => {server('wiki_jobqueue')} ];",
        "$wgResourceLoaderUseObjectCacheForDeps = true;",
    ]


def _mariadb(settings: Settings) -> list[str]:
    """MariaDB through its socket, with the account that has rights on this one database."""
    return [
        "$wgDBtype = 'mysql';",
        f"$wgDBserver = {php(f'localhost:{settings.socket}')};",
        f"$wgDBname = {php(DATABASE)};",
        f"$wgDBuser = {php(ACCOUNT)};",
        f"$wgDBpassword = {php(settings.database_password)};",
        "$wgDBTableOptions = 'ENGINE=InnoDB, DEFAULT CHARSET=binary';",
        "$wgLocalisationCacheConf['store'] = 'array';",
    ]


def php_ini(folders: Folders) -> str:
    """PHP's own settings; the extensions are the ones that Debian's packages enable."""
    return "\n".join(
        (
            "[PHP]",
            "expose_php = Off",
            "display_errors = Off",
            "log_errors = On",
            "memory_limit = 256M",
            "upload_max_filesize = 32M",
            "post_max_size = 33M",
            "date.timezone = UTC",
            "allow_url_include = Off",
            "apc.shm_size = 32M",
            "opcache.enable = 1",
            "opcache.memory_consumption = 96",
            "opcache.interned_strings_buffer = 16",
            "opcache.max_accelerated_files = 10000",
            "opcache.revalidate_freq = 30",
            "",
        )
    )


def apache(folders: Folders, *, port: int, mediawiki: Path, module: Path, mark: str) -> str:
    """The web server's configuration: loopback alone, MediaWiki's entry points, its styles and
    scripts, the uploads; nothing else of any folder is served. ``module`` is Debian's PHP module,
    ``mark`` is what each reply says in :data:`~labkit.wiki.client.ask.MARK`."""
    loads = [f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in MODULES]
    aliases = [f'Alias /w/{name}.php "{mediawiki}/{name}.php"' for name in ENTRIES]
    aliases += [f'Alias /w/{name} "{mediawiki}/{name}"' for name in ASSETS]
    return "\n".join(
        (
            "# Written by labkit at each start of the wiki: a change made here is lost.",
            f'ServerRoot "{folders.run}"',
            f'DefaultRuntimeDir "{folders.run}"',
            f'Mutex "file:{folders.run}" default',
            f'PidFile "{folders.pidfile}"',
            f"ServerName {ADDRESS}:{port}",
            f"Listen {ADDRESS}:{port}",
            *loads,
            f"LoadModule php_module {module}",
            f"User {USER}",
            f"Group {USER}",
            "StartServers 3",
            "MinSpareServers 2",
            "MaxSpareServers 4",
            f"MaxRequestWorkers {WORKERS}",
            "KeepAlive On",
            "KeepAliveTimeout 2",
            "Timeout 30",
            f"RequestReadTimeout {PATIENCE}",
            "ServerTokens Prod",
            "TraceEnable Off",
            f'Header always set {MARK} "{mark}"',
            "TypesConfig /etc/mime.types",
            f"ErrorLog {accesslog.cut(f'{folders.logs}/apache2.log')}",
            'LogFormat "%t %>s %Dus %m %U" brief',  # no query: it may hold a token
            f"CustomLog {accesslog.rotated(f'{folders.logs}/access.log')} brief",
            f'PHPIniDir "{folders.php}"',
            f'SetEnv MW_CONFIG_FILE "{folders.settings}"',
            f'SetEnv MW_INSTALL_PATH "{mediawiki}"',
            "AddOutputFilterByType DEFLATE text/html text/css text/plain application/javascript"
            " application/json",
            *_access(folders, mediawiki),
            *aliases,
            f'Alias /wiki "{mediawiki}/index.php"',
            f'Alias /images "{folders.images}"',
            "RedirectMatch ^/?$ /wiki/",
            # A page of somebody's that names this address by a name of theirs (DNS rebinding) reads nothing.
            f'<If "%{{HTTP_HOST}} !~ m#^({NAMES})(:[0-9]+)?$#i">',
            "    Require all denied",
            "</If>",
            "",
        )
    )


def _access(folders: Folders, mediawiki: Path) -> list[str]:
    """Who may read what: the order matters, a later section overrides an earlier one."""
    served = [f'"{mediawiki}/{name}"' for name in ASSETS]
    entries = "|".join(ENTRIES)
    lines = [
        "<Directory />",
        "    AllowOverride None",
        "    Options None",
        "    Require all denied",
        "</Directory>",
        f'<Directory "{mediawiki}">',
        "    Options FollowSymLinks",
        f'    <FilesMatch "^({entries})\\.php$">',
        "        SetHandler application/x-httpd-php",
        "        Require all granted",
        "    </FilesMatch>",
        "</Directory>",
    ]
    for folder in [*served, f'"{folders.images}"']:
        lines += [
            f"<Directory {folder}>",
            "    Options FollowSymLinks",
            "    SetHandler none",
            "    Require all granted",
            '    <FilesMatch "\\.(php|phar|phtml|inc|json5|sql|sh|py)$">',
            "        SetHandler none",
            "        Require all denied",
            "    </FilesMatch>",
            "</Directory>",
        ]
    lines += [
        f'<Directory "{folders.images}">',
        "    Header set Content-Security-Policy \"default-src 'none'\"",
        "    Header set X-Content-Type-Options nosniff",
        "</Directory>",
    ]
    return lines
