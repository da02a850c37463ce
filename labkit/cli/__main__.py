"""``python -m labkit.cli`` is the ``labkit`` command."""

from labkit.cli import main

main()
