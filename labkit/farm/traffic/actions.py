"""Measured traffic: n requests to a site or a replica, and who served them."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.checks import Check, equal
from labkit.core.journal import lock
from labkit.core.result import Outcome, action
from labkit.display import counted, curl
from labkit.errors import ConfigError
from labkit.farm.network.netns import inside
from labkit.farm.services import balancing, fetch, proxy, resolver
from labkit.farm.traffic import counts, spread
from labkit.farm.traffic.measure import Measurement, even, measure, shared
from labkit.farm.traffic.spread import Case, Comparison, Survey
from labkit.model.lab import Lab
from labkit.records import Record

#: Apache's methods that the comparison goes through.
METHODS = ("byrequests", "bytraffic", "bybusyness")


class Stay(Record):
    """Who served one client that keeps its cookies, request by request."""

    site: str
    sticky: bool
    served: tuple[str, ...]


@action("traffic.send")
def send(
    lab: Lab, label: str, requests: int | None = None, concurrency: int | None = None
) -> Outcome[Measurement]:
    """A site's (through the balancer) or a replica's answers to ``requests`` requests.

    ``label`` is a site's or a replica's name; the numbers default to the Lab's. The table
    ``requests`` has one row a request, ``shares`` one row a replica. Nothing is changed but the
    logs. Raises :class:`FarmError` when name server or target do not answer at all.
    """
    value, sent, checks = measure(lab, label, requests, concurrency)
    how = f"{value.target} ({value.lbmethod})" if value.lbmethod else f"{value.target} directly"
    return Outcome(
        value=value,
        subject=label,
        summary=(
            f"{counted(value.requests, 'request')} to {how}: {value.failed} failed, "
            f"{counts.told(item.replica for item in sent if not item.failed)}; "
            f"{f'chi-square {value.fit.told}, ' if value.fit.freedom else ''}"
            f"median {value.median * 1000:.1f} ms."
        ),
        checks=checks,
        tables=(spread.shares_table(value), spread.requests_table(label, sent)),
    )


@action("traffic.survey")
def survey(
    lab: Lab, requests: int | None = None, concurrency: int | None = None
) -> Outcome[Survey]:
    """:func:`send` for each site of the lab, one after the other.

    The table ``shares`` has one row a replica, and each site has its table ``requests-SITE``. The
    check ``balance.several`` fails where a site has one replica: it shows no balancing then.
    """
    found = [measure(lab, item.name, requests, concurrency) for item in lab.sites]
    value = Survey(measurements=tuple(one for one, _, _ in found))
    return Outcome(
        value=value,
        subject=lab.domain,
        summary=spread.surveyed(value),
        checks=(*(check for _, _, checks in found for check in checks), _several(lab)),
        tables=(
            spread.shares_table(*value.measurements),
            *(spread.requests_table(one.target, sent) for one, sent, _ in found),
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
    """Each of Apache's methods, with equal weights and with ``weights`` (default 3:1:1…), measured.

    The balancer is reloaded for each case, and afterwards, whatever happened, runs again as the
    Lab says. Raises :class:`ConfigError` before anything when the weights do not fit the replicas.

    :param site: default: the first with several replicas. With a single one there is nothing to
        divide, and each method is measured once.
    """
    site = site or shared(lab)
    variants = [
        variant(lab, site, method, given)
        for given in _weightings(len(lab.replicas_of(site)), weights)
        for method in METHODS
    ]
    cases: list[Case] = []
    checks: list[Check] = []
    with lock(lab.run_dir, "farm"):
        try:
            for changed in variants:
                proxy.converge(changed)
                value, _, found = measure(changed, site, requests, concurrency)
                cases.append(_case(changed, value))
                checks += _case_checks(cases[-1], found)
        finally:
            proxy.converge(lab)
    whole = Comparison(site=site, cases=tuple(cases))
    return Outcome(
        value=whole,
        subject=site,
        summary=spread.compared(whole),
        checks=tuple(checks),
        tables=(spread.cases_table(whole),),
    )


@action("traffic.stay")
def stay(lab: Lab, site: str | None = None, requests: int = 20) -> Outcome[Stay]:
    """Who serves one client that keeps its cookies, one request after the other.

    A sticky balancer (``proxy.sticky``) sends it to one replica, any other one to all in turn, by their
    weights: it asks at least as often as those add up to.

    :param site: default: the first with several replicas.
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
        again=f"{resolver.with_dns(lab)} {curl(lab.url(site), options='-si')}",
    )
    return Outcome(
        value=Stay(site=site, sticky=lab.proxy.sticky, served=served),
        subject=site,
        summary=f"A client that keeps its cookies was served by {counts.told(served)}{alone}.",
        checks=(check,),
    )


def variant(lab: Lab, site: str, lbmethod: str, weights: Sequence[int]) -> Lab:
    """The same lab with another method and other weights of one site; :class:`ConfigError` if wrong."""
    values = lab.model_dump()
    values["proxy"]["lbmethod"] = lbmethod
    for item in values["sites"]:
        if item["name"] == site:
            item["weights"] = tuple(weights)
    return Lab.of(values, "the comparison").allotted(lab.allotment)


def _visit(there: fetch.Target, requests: int) -> tuple[str, ...]:
    served, cookie = [], ""
    for _ in range(requests):
        reply = fetch.get(there, headers={"Cookie": cookie} if cookie else {})
        served.append(reply.replica)
        cookie = reply.cookie or cookie
    return tuple(served)


def _case(lab: Lab, value: Measurement) -> Case:
    weights = tuple(part.weight for part in value.shares)
    return Case(lbmethod=lab.proxy.lbmethod, weights=weights, measurement=value)


def _case_checks(case: Case, checks: Sequence[Check]) -> list[Check]:
    """The distribution's check, and one for the answers and the logs, under the case's own name."""
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


def _weightings(count: int, weights: Sequence[int] | None) -> tuple[tuple[int, ...], ...]:
    """Equal weights and uneven ones; once what is the same."""
    if not isinstance(weights, (Sequence, type(None))):
        raise ConfigError(
            f"weights = {weights!r}",
            "is no list of numbers",
            "write it like [3, 1]",
            code="config.weights",
        )
    even = (1,) * count
    uneven = tuple(weights) if weights is not None else (3, *even[1:])
    return (even, uneven) if count > 1 and even != uneven else (uneven if weights else even,)


def _several(lab: Lab) -> Check:
    """Whether the lab is one that can show balancing at all. No stage requires it."""
    alone = [site.name for site in lab.sites if len(lab.replicas_of(site.name)) == 1]
    shown = lab.url(alone[0] if alone else lab.sites[0].name, balancing.STATUS_PATH)
    return Check(
        name="balance.several",
        expected="each site on two replicas or more, to divide its requests and take over",
        seen=f"one replica: {', '.join(alone)}" if alone else "each site on two or more",
        holds=not alone,
        rows=("E5",),
        again=f"{resolver.with_dns(lab)} {curl(shown, options=f'-s {balancing.FROM_RESERVED}')}",
    )
