"""The lab on several machines: deployed to an engine that exists, and checked there.

``swarm`` and ``kubernetes`` bring the lab up there, compare, check and remove it; ``files`` writes what Docker's and Kubernetes'
own tools deploy it from. What both run is a ``deployment``; what they keep of one machine's confinement, ``guarantees``.
"""

__all__ = ["files", "kubernetes", "swarm"]  # noqa: F822 - its modules


def __dir__() -> list[str]:
    return __all__
