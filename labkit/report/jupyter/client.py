"""The program that JupyterLab starts in the place of a kernel: asks the broker for one, passes signals on, ends with it.

It is a program by itself, of the person's own, and so has nothing but Python's library to start with.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def main(connection_file: str) -> int:
    """Returns when the kernel has ended, with its exit status (128 and the signal that ended it)."""
    with socket.socket(socket.AF_UNIX) as broker:
        broker.connect("\0" + os.environ["LABKIT_BROKER"])
        session = os.environ.get("JPY_SESSION_NAME", "")
        asked = {
            "connection_file": connection_file,
            "folder": os.getcwd(),  # noqa: PTH109 - no more than is needed is imported
            "session": session,
        }
        socket.send_fds(broker, [json.dumps(asked).encode() + b"\n"], [1])
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda got, _: broker.sendall(f"{got}\n".encode()))
        with broker.makefile() as answers:
            status = int(answers.readline() or 1)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
