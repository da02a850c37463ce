"""A program that runs one notebook by papermill, with an engine that reports each cell.

``python -m labkit.report.batch.engine SOURCE TARGET MOST PARAMETERS`` saves in TARGET what it has after each cell,
logs what cells print on standard error, and writes a line of JSON on standard output when

- a cell begins: ``{"cell": 3, "cells": 9}``, counted from 1;
- that cell has printed more than MOST characters: ``{"flooded": true}``. No more of it is logged;
- the kernel ended before it was ready: ``{"unready": true}``.

The exit status is papermill's own: 0, 1 when a cell failed, 138 when the kernel died.
"""

from __future__ import annotations

import json
import logging
import os
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

Report = Callable[[dict[str, Any]], None]


class Client(PapermillNotebookClient):  # type: ignore[misc]
    """Executes a notebook's cells, reports each, and logs at most ``most`` characters of what it prints."""

    def __init__(
        self, manager: NotebookExecutionManager, report: Report, most: int, **given: Any
    ) -> None:
        super().__init__(manager, log=logger, log_output=True, **given)
        self.begun = False
        self._report, self._most, self._left = report, most, most

    def execute_cell(self, cell: Any, cell_index: int, **given: Any) -> Any:
        """Executes a cell; each may print as much."""
        self.begun, self._left = True, self._most
        self._report({"cell": cell_index + 1, "cells": len(self.nb.cells)})
        return super().execute_cell(cell, cell_index, **given)

    def output(self, outs: Any, msg: Any, *given: Any) -> Any:
        """Keeps an output of the cell that runs; of one that prints without end nothing more but its error."""
        if self._left < 0 and msg["msg_type"] != "error":
            return None
        return super().output(outs, msg, *given)

    def log_output_message(self, output: Any) -> None:
        """Logs an output of the cell that runs."""
        if self._left < 0:
            return
        self._left -= len(output.get("text") or output.get("data", {}).get("text/plain", ""))
        if self._left < 0:
            self._report({"flooded": True})
        else:
            super().log_output_message(output)


class Engine(NBClientEngine):  # type: ignore[misc]
    """papermill's own engine with :class:`Client`."""

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
        """Executes the notebook of a manager."""
        client = Client(
            nb_man, report, most, kernel_name=kernel_name, startup_timeout=start_timeout
        )
        try:
            return client.execute()
        except RuntimeError:  # a kernel that does not answer
            if not client.begun:
                report({"unready": True})
            raise


def main(source: str, target: str, most: str, parameters: str) -> int:
    """Executes a notebook in its own folder, with parameters in JSON; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    reports = os.dup(1)  # which no kernel has, nor what it starts
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def report(said: dict[str, Any]) -> None:
        os.write(reports, json.dumps(said).encode() + b"\n")

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
