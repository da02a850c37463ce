"""The ``labkit`` command: a thin front over the package's own functions.

What an action found goes to standard output (``--json``: its record), progress and errors to
standard error. The exit status is 0 when all is as it should be, 1 when something is not, 2 for a
command line that is none, and 128 and the signal's number after a signal.
"""

from __future__ import annotations

import codecs
import io
import locale
import os
import sys

import typer

from labkit import display
from labkit.cli import batch, cluster, machine, report
from labkit.cli.command import app, joined
from labkit.errors import ConfigError

__all__ = ["app", "main"]

#: The modules whose import adds the commands, in the order in which --help lists them.
COMMANDS = (batch, machine, report, cluster)
#: labkit's records need no plugins of pydantic's, for which it would read what each installed package says of itself.
NO_PLUGINS = ("PYDANTIC_DISABLE_PLUGINS", "__all__")


def main() -> None:
    """Runs the ``labkit`` command: the entry point of the console script."""
    _speak_utf8()
    os.environ.setdefault(*NO_PLUGINS)
    try:
        arguments = joined(sys.argv[1:])
    except ConfigError as error:
        typer.echo(f"labkit: {error}", err=True)
        raise SystemExit(2) from None
    app(arguments, prog_name="labkit")


def _speak_utf8() -> None:
    """Uses UTF-8 inside, whatever the caller's locale is: starts Python again if it began with another
    character set. Characters that the terminal does not have are replaced (:func:`labkit.display.substitute`).

    ASCII is what Python takes for a locale that is not set or not installed: such a terminal has UTF-8.
    """
    try:
        charset = codecs.lookup(locale.getencoding()).name
    except LookupError:  # one that Python does not know
        charset = "ascii"
    if charset != "utf-8" and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - itself
    codecs.register_error("labkit", display.substitute)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = "utf-8" if charset == "ascii" else charset
            stream.reconfigure(encoding=encoding, errors="labkit")
