"""How a balancer divides requests: over every site, by every method and weight, and for one client."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.checks import Check, equal
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted, curl
from labkit.errors import ConfigError
from labkit.farm.services import balancer_server, fetch
from labkit.farm.services.balancer_config import FROM_RESERVED, STATUS_PATH
from labkit.farm.services.dns_server import with_dns
from labkit.farm.traffic import measurements
from labkit.farm.traffic.measurements import Measurement, even, measure, shared
from labkit.kernel.netns import inside
from labkit.model.config import METHODS
from labkit.model.lab import Lab
from labkit.records import Record


class Case(Record):
    """One case of a comparison: the method, the weights in the replicas' order, what it gave."""

    lbmethod: str
    weights: tuple[int, ...]
    measurement: Measurement

    @property
    def name(self) -> str:
        """``byrequests 3:1``."""
        return f"{self.lbmethod} {':'.join(str(weight) for weight in self.weights)}"


class Comparison(Record):
    """The cases of a comparison on one site."""

    site: str
    cases: tuple[Case, ...]


class Survey(Record):
    """A measurement of each site, in the Lab's order."""

    measurements: tuple[Measurement, ...]


class Stay(Record):
    """Who served one client that keeps its cookies, request by request."""

    site: str
    sticky: bool
    served: tuple[str, ...]


@action("traffic.survey")
def survey(
    lab: Lab, requests: int | None = None, concurrency: int | None = None
) -> Outcome[Survey]:
    """Sends requests to each site of the lab, one site after the other, and counts who served them.

    The table ``shares`` has one row a replica, and each site's table ``requests-SITE`` one row a request.
    The check ``balance.several`` fails where a site has one replica: it shows no balancing then.

    :param requests: requests to each site; default: the Lab's ``traffic.requests``.
    :param concurrency: how many at a time; default: the Lab's ``traffic.concurrency``.
    :raises FarmError: the name server or a site does not answer at all.

    Example: ``traffic.survey(lab, requests=200).value.measurements[0].shares``
    """
    found = [measure(lab, item.name, requests, concurrency) for item in lab.sites]
    value = Survey(measurements=tuple(one for one, _, _ in found))
    return Outcome(
        value=value,
        subject=lab.domain,
        summary=_surveyed(value.measurements),
        checks=(*(check for _, _, checks in found for check in checks), _several(lab)),
        tables=(
            measurements.shares_table(*value.measurements),
            *(measurements.requests_table(one.target, sent) for one, sent, _ in found),
        ),
    )


@action("traffic.compare")
def compare(
    lab: Lab,
    site: str | None = None,
    *,
    weights: Sequence[int] | None = None,
    requests: int | None = None,
    concurrency: int | None = None,
) -> Outcome[Comparison]:
    """Measures each of Apache's methods with equal weights and with ``weights``.

    The balancer is reloaded for each case, and afterwards, whatever happened, runs again as the
    Lab says. The table ``compare-SITE`` has one row a case and replica.

    :param site: default: the first with several replicas. With a single one there is nothing to
        divide, and each method is measured once.
    :param weights: one for each replica of the site; default: 3, 1, 1 …
    :param requests: requests in each case; default: the Lab's ``traffic.requests``.
    :param concurrency: how many at a time; default: the Lab's ``traffic.concurrency``.
    :raises ConfigError: the weights do not fit the replicas; nothing was changed then.

    Example: ``traffic.compare(lab, weights=[3, 1]).table("compare-site1")``
    """
    site = site or shared(lab)
    variants = [
        _variant(lab, site, method, given)
        for given in _weightings(len(lab.replicas_of(site)), weights)
        for method in METHODS
    ]
    cases: list[Case] = []
    checks: list[Check] = []
    with lock(lab.run_dir, "farm"):
        try:
            for changed in variants:
                balancer_server.converge(changed)
                value, _, found = measure(changed, site, requests, concurrency)
                parts = tuple(part.weight for part in value.shares)
                case = Case(lbmethod=changed.proxy.lbmethod, weights=parts, measurement=value)
                cases.append(case)
                checks += _case_checks(case, found)
        finally:
            balancer_server.converge(lab)
    return Outcome(
        value=Comparison(site=site, cases=tuple(cases)),
        subject=site,
        summary=_compared(site, cases),
        checks=tuple(checks),
        tables=(cases_table(site, cases),),
    )


@action("traffic.stay")
def stay(lab: Lab, site: str | None = None, requests: int = 20) -> Outcome[Stay]:
    """Shows who serves one client that keeps its cookies, one request after the other.

    A sticky balancer (``proxy.sticky``) sends it to one replica, any other one to all in turn, by their
    weights: the client asks at least as often as those add up to.

    :param site: default: the first with several replicas.
    :param requests: how many the client sends, at least.

    Example: ``traffic.stay(lab).value.served``
    """
    site = site or shared(lab)
    there = fetch.target(lab, site)
    own = {item.name: item.weight for item in lab.replicas_of(site)}
    even(lab)
    try:
        served = inside(lab.netns, _visit, there, max(requests, sum(own.values())))
    except fetch.ERRORS as error:
        raise fetch.down(lab, there, error) from None
    expected = 1 if lab.proxy.sticky else len(own)
    alone = ", as there is no other" if len(own) == 1 else ""
    check = equal(
        f"traffic.{site}.stay",
        f"different replicas: {expected}",
        f"different replicas: {len(set(served) & own.keys())}",
        rows=("E5",),
        again=f"{with_dns(lab)} {curl(lab.url(site), options='-si')}",
    )
    return Outcome(
        value=Stay(site=site, sticky=lab.proxy.sticky, served=served),
        subject=site,
        summary=f"A client that keeps its cookies was served by {measurements.counts(served)}{alone}.",
        checks=(check,),
    )


def _variant(lab: Lab, site: str, lbmethod: str, weights: Sequence[int]) -> Lab:
    """The same lab with another method and other weights of one site; :class:`ConfigError` if wrong."""
    values = lab.model_dump()
    values["proxy"]["lbmethod"] = lbmethod
    for item in values["sites"]:
        if item["name"] == site:
            item["weights"] = tuple(weights)
    return Lab.of(values, "the comparison").allotted(lab.allotment)


def _weightings(count: int, weights: Sequence[int] | None) -> tuple[tuple[int, ...], ...]:
    """Equal weights and uneven ones; only one of them where they are the same."""
    if not isinstance(weights, (Sequence, type(None))):
        raise ConfigError(
            f"weights = {weights!r}",
            "is not a list of numbers",
            "write it like [3, 1]",
            code="config.weights",
        )
    even = (1,) * count
    uneven = tuple(weights) if weights is not None else (3, *even[1:])
    return (even, uneven) if count > 1 and even != uneven else (uneven if weights else even,)


def _visit(there: fetch.Target, requests: int) -> tuple[str, ...]:
    served, cookie = [], ""
    for _ in range(requests):
        reply = fetch.get(there, headers={"Cookie": cookie} if cookie else {})
        served.append(reply.replica)
        cookie = reply.cookie or cookie
    return tuple(served)


def _case_checks(case: Case, checks: Sequence[Check]) -> list[Check]:
    """The distribution's check, and one for the answers and the logs, under the case's name."""
    site = case.measurement.target
    name = f"compare.{site}.{case.name.replace(' ', '-').replace(':', '-')}"
    (shared,) = (check for check in checks if check.name.endswith(".distribution"))
    others = [check for check in checks if check is not shared]
    logged = Check(
        name=f"{name}.logs",
        expected=f"{case.measurement.requests} answered; client, balancer and replicas agree",
        seen="; ".join(check.seen for check in others if not check.holds) or others[-1].seen,
        holds=all(check.holds for check in others),
        rows=shared.rows,
        again=others[-1].again,
    )
    return [shared.model_copy(update={"name": f"{name}.distribution"}), logged]


def _several(lab: Lab) -> Check:
    """Whether the lab is one that can show balancing at all. No stage requires it."""
    alone = [site.name for site in lab.sites if len(lab.replicas_of(site.name)) == 1]
    shown = lab.url(alone[0] if alone else lab.sites[0].name, STATUS_PATH)
    return Check(
        name="balance.several",
        expected="each site on two replicas or more, to divide its requests and take over",
        seen=f"one replica: {', '.join(alone)}" if alone else "each site on two or more",
        holds=not alone,
        rows=("E5",),
        again=f"{with_dns(lab)} {curl(shown, options=f'-s {FROM_RESERVED}')}",
    )


def _surveyed(found: Sequence[Measurement]) -> str:
    """The sites' measurements in a sentence; a site with one replica is named."""
    tested = [one.fit for one in found if one.fit.freedom]
    alone = [one.target for one in found if len(one.shares) == 1]
    parts = [
        f"{sum(one.failed for one in found)} failed",
        *([f"smallest chi-square {min(tested, key=lambda fit: fit.p).text}"] if tested else []),
        *([f"nothing to divide, with one replica: {', '.join(alone)}"] if alone else []),
    ]
    requests = sum(one.requests for one in found)
    return f"{requests:,} requests to {counted(len(found), 'site')}: {'; '.join(parts)}."


def _compared(site: str, cases: Sequence[Case]) -> str:
    """Each case's numbers of requests, in the replicas' order, in a sentence."""
    parts = (
        f"{case.name} gave {':'.join(str(part.observed) for part in case.measurement.shares)}"
        for case in cases
    )
    alone = all(len(case.weights) == 1 for case in cases)
    only = " has one replica, which no method or weight changes" if alone else ""
    return f"{site}{only}: {'; '.join(parts)}."


def cases_table(site: str, cases: Sequence[Case]) -> Table:
    """One row a case and replica."""
    rows = [
        {
            **part.model_dump(),
            "method": case.lbmethod,
            "weights": ":".join(map(str, case.weights)),
            "expected": round(part.expected, 1),
            "p": case.measurement.p,
            "rate": case.measurement.rate,
            "median": case.measurement.median,
        }
        for case in cases
        for part in case.measurement.shares
    ]
    return Table.of(
        f"compare-{site}",
        "Methods and weights compared",
        rows,
        columns=("method", "weights", "replica", "observed", "expected", "p", "rate", "median"),
        units={"rate": "requests/s", "median": "s"},
    )
