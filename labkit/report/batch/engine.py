"""A program that runs one notebook by papermill, with an engine that reports each cell.

``python -m labkit.report.batch.engine SOURCE TARGET MOST PARAMETERS`` saves in TARGET what it has after each cell,
logs what cells print on standard error, and writes a line of JSON on standard output when

- a cell begins: ``{"cell": 3, "cells": 9}``, counted from 1;
- that cell has printed more than MOST characters, no more of which are logged: ``{"cause": "cell 3 printed …"}``.

A kernel that ends before it is ready (another program may have taken its port) is started again, STARTS times in all,
but not after the signal SIGUSR1.

The exit status is papermill's own: 0, 1 when a cell failed, 138 when the kernel died.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbclient.exceptions import DeadKernelError
from papermill import execute_notebook
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines
from papermill.log import logger

#: The exit status for a kernel that died, as papermill's command has it.
DEAD_KERNEL = 138
#: How many times a kernel is started that does not come up.
STARTS = 4

Report = Callable[[dict[str, Any]], None]


class Client(PapermillNotebookClient):  # type: ignore[misc]
    """Executes a notebook's cells, reports each, and logs at most ``most`` characters of what it prints."""

    def __init__(
        self, manager: NotebookExecutionManager, report: Report, most: int, **given: Any
    ) -> None:
        super().__init__(manager, log=logger, log_output=True, **given)
        self.cell = 0
        self._report, self._most, self._left = report, most, most

    def execute_cell(self, cell: Any, cell_index: int, **given: Any) -> Any:
        """Reports a cell and executes it. The limit of printed characters starts anew."""
        self.cell, self._left = cell_index + 1, self._most
        self._report({"cell": self.cell, "cells": len(self.nb.cells)})
        return super().execute_cell(cell, cell_index, **given)

    def output(self, outs: Any, msg: Any, *given: Any) -> Any:
        """Keeps an output of the running cell; after too much output, only its error."""
        if self._left < 0 and msg["msg_type"] != "error":
            return None
        return super().output(outs, msg, *given)

    def log_output_message(self, output: Any) -> None:
        """Logs an output of the running cell."""
        if self._left < 0:
            return
        self._left -= len(output.get("text") or output.get("data", {}).get("text/plain", ""))
        if self._left < 0:
            printed = f"cell {self.cell} printed more than {self._most / 1e6:g} MB"
            self._report({"cause": f"{printed}, and was ended: print less"})
        else:
            super().log_output_message(output)


class Engine(NBClientEngine):  # type: ignore[misc]
    """papermill's own engine with :class:`Client`; while it is ``ending``, no further kernel is started."""

    ending = False

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        *,
        report: Report,
        most: int,
        start_timeout: int = 60,
        **given: Any,
    ) -> Any:
        """Executes the manager's notebook."""
        settings = {"kernel_name": kernel_name, "startup_timeout": start_timeout}
        for start in itertools.count(2):
            client = Client(nb_man, report, most, **settings)
            try:
                return client.execute()
            except RuntimeError:  # a kernel that does not answer
                if client.cell or start > STARTS or cls.ending:
                    raise
            logger.warning("The kernel ended before it was ready: start %d of %d", start, STARTS)
        raise AssertionError  # the starts have an end


def main(source: str, target: str, most: str, parameters: str) -> int:
    """Executes a notebook in its own folder, with parameters in JSON; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    reports = os.dup(1)  # which no kernel has, nor what it starts
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def report(said: dict[str, Any]) -> None:
        os.write(reports, json.dumps(said).encode() + b"\n")

    signal.signal(signal.SIGUSR1, lambda *_: setattr(Engine, "ending", True))
    papermill_engines.register("labkit", Engine)
    try:
        execute_notebook(
            source, target, json.loads(parameters), engine_name="labkit", cwd=Path(source).parent,
            progress_bar=False, log_output=True, report=report, most=int(most),
        )  # fmt: skip
    except DeadKernelError:
        traceback.print_exc()
        return DEAD_KERNEL
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
