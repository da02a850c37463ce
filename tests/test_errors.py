"""What every error of labkit's own has: a code that stays, and what a person needs to go on."""

from __future__ import annotations

import ast
import errno
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.cli.command import told
from labkit.errors import (
    CommandError,
    CommandTimeoutError,
    LabkitError,
    MachineError,
    excerpt,
    of_system,
    with_sudo,
)

MODULES = sorted((Path(__file__).parents[1] / "labkit").rglob("*.py"))
#: The first part of a code, by the class of the error.
KINDS = {
    "LabkitError": "labkit|machine",
    "ConfigError": "config",
    "MachineError": "machine",
    "StateError": "state",
    "LockError": "lock",
    "BuildError": "build",
    "FarmError": "farm",
    "WikiError": "wiki|machine",
    "StageError": "stage",
}


def raised() -> Iterator[tuple[str, str, ast.expr | None]]:
    """Each place where an error is made: where it is, its class, and what it gives as its code."""
    for path in MODULES:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                code = next((word.value for word in call.keywords if word.arg == "code"), None)
                if call.func.id in KINDS:
                    yield f"{path.name}:{call.lineno}", call.func.id, code


def test_every_error_has_a_code_of_its_kind() -> None:
    """Wherever one is raised; a code is a kind and a name."""
    found = list(raised())
    assert len(found) > 100
    without = [where for where, _, code in found if code is None]
    assert without == []
    wrong = [
        (where, code.value)
        for where, name, code in found
        if isinstance(code, ast.Constant)
        and not re.fullmatch(rf"({KINDS[name]})\.[a-z]+(-[a-z]+)*", str(code.value))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LabkitError("x", "is not"), "labkit.error"),
        (MachineError("x", "is not", code="machine.port-taken"), "machine.port-taken"),
        (CommandError(["false"], 1), "command.failed"),
        (CommandTimeoutError(["sleep", "9"], 1), "command.timeout"),
        (of_system(OSError(errno.ENOSPC, "No space left", "/x")), "machine.disk-full"),
        (of_system(OSError(errno.EROFS, "Read-only"), "/x"), "machine.read-only"),
        (told(ValueError("x")), "labkit.fault"),
        (told(NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x")), "machine.in-the-way"),
    ],
)
def test_the_code_is_told_with_the_error(error: LabkitError, code: str) -> None:
    """In the last line of what a person reads, and in the record that a program reads."""
    assert error.code == code
    assert str(error).splitlines()[-1] == f"  code: {code}"
    assert error.record["code"] == code
    assert json.loads(json.dumps(error.record)) == error.record


def test_an_error_of_a_worker_keeps_its_code() -> None:
    """It is the same error in another process."""
    again = pickle.loads(pickle.dumps(MachineError("x", "y", "z", "w", code="machine.x")))  # noqa: S301
    assert (again.code, str(again).splitlines()[1]) == ("machine.x", "  remedy: z")


def test_every_further_class_has_a_code_of_its_own() -> None:
    """Those that modules make for themselves: a conflict on the wiki, a package that the mirror lacks."""
    found = {
        node.name: [
            item.targets[0].id
            for item in node.body
            if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name)
        ]
        for path in MODULES
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and node.name[0] != "_"
        if [getattr(base, "id", "") for base in node.bases]
        != ["ValueError"]  # caught where it is raised
    }
    assert len(found) > 4
    assert [name for name, given in found.items() if "code" not in given] == []


def test_what_a_program_said_keeps_its_beginning_and_its_end() -> None:
    """Bounded; a short text is whole."""
    long = "E: the cause\n" + "noise\n" * 1000 + "E: the end\n"
    short = excerpt(long, 100)
    assert len(short) <= 100
    assert short.startswith("E: the cause")
    assert short.endswith("E: the end")
    assert " … " in short
    assert excerpt(" all of it\n") == "all of it"
    error = CommandError(["apt-get", "update"], 100, long)
    assert "E: the cause" in error.reason
    assert "E: the end" in error.reason
    assert len(error.reason) < 2100


@pytest.mark.parametrize(
    ("argv", "remedy"),
    [
        (["/v e/bin/labkit", "plan", "-p", "x", "1"], "sudo '/v e/bin/labkit' plan -p x 1"),
        (["/usr/lib/python3/labkit/__main__.py"], "or in a root shell"),
    ],
)
def test_root_is_asked_for_by_a_command_that_sudo_finds(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], remedy: str
) -> None:
    """By its path: an activated environment's programs are not on sudo's own."""
    monkeypatch.setattr("sys.argv", argv)
    assert remedy in with_sudo()
