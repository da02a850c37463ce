"""Measured traffic: n requests to a site or a replica, and who served them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from labkit.checks import Check, equal
from labkit.farm import counts, fetch, proxy, resolver
from labkit.farm.load import Sent
from labkit.farm.measure import Measurement, measure
from labkit.farm.netns import inside
from labkit.journal import lock
from labkit.lab import Lab
from labkit.result import Cell, Outcome, Record, Table, action

#: Apache's methods that the comparison goes through.
METHODS = ("byrequests", "bytraffic", "bybusyness")


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
            f"{value.requests} requests to {how}: {value.failed} failed, "
            f"{counts.told(item.replica for item in sent if not item.failed)}; "
            f"{f'chi-square p = {value.fit.p:.3f}, ' if value.fit.freedom else ''}"
            f"median {value.median * 1000:.1f} ms."
        ),
        checks=checks,
        tables=(shares_table(value), _requests_table(label, sent)),
    )


@action("traffic.survey")
def survey(
    lab: Lab, requests: int | None = None, concurrency: int | None = None
) -> Outcome[Survey]:
    """:func:`send` for each site of the lab, one after the other.

    The table ``shares`` has one row a replica, and each site has its table ``requests-SITE``.
    """
    found = [measure(lab, item.name, requests, concurrency) for item in lab.sites]
    value = Survey(measurements=tuple(one for one, _, _ in found))
    failed = sum(one.failed for one in value.measurements)
    return Outcome(
        value=value,
        subject=lab.domain,
        summary=(
            f"{sum(one.requests for one in value.measurements)} requests to {len(found)} sites: "
            f"{failed} failed; smallest chi-square p = "
            f"{min(one.fit.p for one in value.measurements):.3f}."
        ),
        checks=tuple(check for _, _, checks in found for check in checks),
        tables=(
            shares_table(*value.measurements),
            *(_requests_table(one.target, sent) for one, sent, _ in found),
        ),
    )


@action("traffic.compare")
def compare(
    lab: Lab,
    site: str,
    *,
    weights: Sequence[int] | None = None,
    requests: int | None = None,
    concurrency: int | None = None,
) -> Outcome[Comparison]:
    """Each of Apache's methods, with equal weights and with ``weights`` (default 3:1:1…), measured.

    The balancer is reloaded for each case, and afterwards, whatever happened, runs again as the
    Lab says. Raises :class:`ConfigError` before anything when the weights do not fit the replicas.
    """
    count = len(lab.replicas_of(site))
    uneven = tuple(weights) if weights is not None else (3, *[1] * (count - 1))
    variants = [
        variant(lab, site, method, given) for given in ((1,) * count, uneven) for method in METHODS
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
        summary=_compared(whole),
        checks=tuple(checks),
        tables=(_cases_table(whole),),
    )


@action("traffic.stay")
def stay(lab: Lab, site: str, requests: int = 20) -> Outcome[Stay]:
    """Who serves one client that keeps its cookies, one request after the other.

    A sticky balancer (``proxy.sticky``) sends it to one replica, any other one to all in turn.
    """
    there = fetch.target(lab, site)
    try:
        served = inside(lab.netns, _visit, there, requests)
    except fetch.ERRORS as error:
        raise fetch.down(lab, there, error) from None
    own = {item.name for item in lab.replicas_of(site)}
    expected = 1 if lab.proxy.sticky else min(len(own), requests)
    check = equal(
        f"traffic.{site}.stay",
        f"different replicas: {expected}",
        f"different replicas: {len(set(served) & own)}",
        rows=("E5",),
        again=f"{resolver.with_dns(lab)} curl -si {lab.url(site)}",
    )
    return Outcome(
        value=Stay(site=site, sticky=lab.proxy.sticky, served=served),
        subject=site,
        summary=f"A client that keeps its cookies was served by {counts.told(served)}.",
        checks=(check,),
    )


def variant(lab: Lab, site: str, lbmethod: str, weights: Sequence[int]) -> Lab:
    """The same lab with another method and other weights of one site; :class:`ConfigError` if wrong."""
    values = lab.model_dump()
    values["proxy"]["lbmethod"] = lbmethod
    for item in values["sites"]:
        if item["name"] == site:
            item["weights"] = tuple(weights)
    return Lab.of(values, "the comparison")


def shares_table(*values: Measurement) -> Table:
    """One row a replica: observed and expected requests, and the chi-square p of its site."""
    rows: list[dict[str, Cell]] = [
        {
            "target": value.target,
            "replica": part.replica,
            "weight": part.weight,
            "observed": part.observed,
            "expected": round(part.expected, 1),
            "p": round(value.fit.p, 4),
        }
        for value in values
        for part in value.shares
    ]
    return Table.of("shares", "Requests observed and expected", rows)


def _requests_table(label: str, sent: Sequence[Sent]) -> Table:
    rows: Iterator[dict[str, Cell]] = (
        {
            "site": label,
            "replica": item.replica,
            "status": item.status,
            "start": item.start,
            "seconds": item.seconds,
            "error": item.error,
        }
        for item in sent
    )
    units = {"start": "s", "seconds": "s"}
    return Table.of(f"requests-{label}", f"Requests to {label}", rows, units=units)


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


def _compared(value: Comparison) -> str:
    parts = (
        f"{case.name} gave {':'.join(str(part.observed) for part in case.measurement.shares)}"
        for case in value.cases
    )
    return f"{value.site}: {'; '.join(parts)}."


def _cases_table(value: Comparison) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "lbmethod": case.lbmethod,
            "weights": ":".join(str(weight) for weight in case.weights),
            "replica": part.replica,
            "observed": part.observed,
            "expected": round(part.expected, 1),
            "p": round(case.measurement.fit.p, 4),
            "rate": case.measurement.rate,
            "median": case.measurement.median,
        }
        for case in value.cases
        for part in case.measurement.shares
    ]
    units = {"rate": "requests/s", "median": "s"}
    return Table.of(f"compare-{value.site}", "Methods and weights compared", rows, units=units)
