"""The description of a lab: its configuration, and the names, addresses and paths that are derived from it.

- ``lab``: :class:`~labkit.model.lab.Lab`, which loads the configuration. ``config``: its sections and their checks.
- ``addresses``: numbers of sites and hosts. ``parameters``: what a notebook's cells assign.
- ``resources``: the kinds of things a farm is made of. ``sites``: what a site's image holds.

Only :meth:`Lab.load <labkit.model.lab.Lab.load>` reads files.
"""

__all__ = ["addresses", "config", "lab", "parameters", "resources", "sites"]  # noqa: F822 - its modules


def __dir__() -> list[str]:
    return __all__
