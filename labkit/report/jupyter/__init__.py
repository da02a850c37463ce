"""JupyterLab under sudo: the server runs as the person, its kernels as root.

``broker`` starts both; ``client`` is the program that JupyterLab starts in the place of a kernel.
"""

__all__ = ["broker"]  # noqa: F822 - its modules


def __dir__() -> list[str]:
    return __all__
