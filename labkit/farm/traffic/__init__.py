"""Measured traffic through the balancer, and what a stopped replica does to it.

:func:`survey`, :func:`compare` and :func:`stay` show who serves the requests. The module
:mod:`~labkit.farm.traffic.failover` kills or drains a replica under load, and
:mod:`~labkit.farm.traffic.bench` measures throughput and latency; ``load`` sends the requests, ``distribution`` and
``measurements`` have the values that figures take.

Example: ``from labkit.farm import traffic``, then ``traffic.survey(lab)``
"""

from labkit.farm.traffic import bench, distribution, failover, load, measurements
from labkit.farm.traffic.distribution import compare, stay, survey

__all__ = ["bench", "compare", "distribution", "failover", "load", "measurements", "stay", "survey"]


def __dir__() -> list[str]:
    return __all__
