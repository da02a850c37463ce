"""pyroute2's modules, each without the package itself, which imports them all, servers and databases among them."""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

PACKAGE = "pyroute2"
#: They import each other in circles: of two threads that enter one at different places, Python ends one with
#: an error.
_importing = threading.RLock()


def module(name: str) -> ModuleType:
    """One of its modules (``netlink.rtnl``), imported by one thread at a time."""
    with _importing:
        if PACKAGE not in sys.modules:
            _lazily()
        return import_module(f"{PACKAGE}.{name}")


def _lazily() -> None:
    """The package's modules can be imported: its own code runs when somebody asks it for a name."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.loader is None:
        return
    package, loader = module_from_spec(spec), spec.loader

    def missing(asked: str) -> Any:
        if asked.startswith("__"):
            raise AttributeError(asked)
        if find_spec(f"{PACKAGE}.{asked}"):
            return import_module(f"{PACKAGE}.{asked}")
        vars(package).pop("__getattr__", None)
        loader.exec_module(package)
        return getattr(package, asked)

    vars(package)["__getattr__"] = missing
    sys.modules[PACKAGE] = package
