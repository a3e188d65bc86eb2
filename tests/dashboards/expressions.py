"""Which labels an expression's result has, by its form: a name or a label that does not exist is an error here."""

import json
from functools import cache
from pathlib import Path

import promql_parser as promql

from tests.dashboards.rules import recordings

Labels = frozenset[str]
SERIES_FILE = Path(__file__).with_name("series.json")
# Of a scrape; a namespace is there where the scrape's configuration attaches one.
TARGET: Labels = frozenset({"job", "instance", "namespace"})
# Prometheus' own. ALERTS has the labels of any alert.
OWN: dict[str, Labels] = {
    "up": TARGET,
    "ALERTS": TARGET | {"alertname", "alertstate", "severity", "window", "model", "router", "shard"},
}
SET_OPERATORS = ("and", "or", "unless")


class UnknownError(Exception):
    """A series or a label that nobody exports."""


@cache
def exported() -> dict[str, Labels]:
    """Name to labels of what a cluster exports; a live test compares the file with a cluster."""
    return {name: frozenset(labels) for name, labels in json.loads(SERIES_FILE.read_text()).items()}


@cache
def labels_of_series(name: str) -> Labels:
    """The labels of a series: Prometheus' own, a cluster's, or a recording's.

    Raises:
        UnknownError: there is none of this name.
    """
    if name in OWN:
        return OWN[name]
    if name in exported():
        return exported()[name] | TARGET
    for rule in recordings():
        if rule.record == name:
            return labels_of(rule.expr) | frozenset(rule.labels)
    raise UnknownError(f"nobody exports {name}")


def labels_of(expr: str) -> Labels:
    """The labels that an expression's result may have.

    Raises:
        UnknownError: a series does not exist; a label is matched, kept or joined on that its operand does not have; or
            two sides are joined on all labels and have different ones, so that they never match.
    """
    return _labels(promql.parse(expr))


def selectors(expr: str) -> list[promql.VectorSelector]:
    """Each selector of an expression, in no order."""
    waiting, found = [promql.parse(expr)], []
    while waiting:
        one = waiting.pop()
        if isinstance(one, promql.VectorSelector):
            found.append(one)
        parts = [getattr(one, name, None) for name in ("expr", "lhs", "rhs", "vector_selector")]
        waiting += [*(part for part in parts if part is not None), *getattr(one, "args", ())]
    return found


def _labels(expr: promql.Expr) -> Labels:
    match expr:
        case promql.NumberLiteral() | promql.StringLiteral():
            return frozenset()
        case promql.VectorSelector():
            return _selected(expr)
        case promql.MatrixSelector():
            return _selected(expr.vector_selector)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _labels(expr.expr)
        case promql.AggregateExpr():
            return _aggregated(expr)
        case promql.Call():
            return _called(expr)
        case promql.BinaryExpr():
            return _joined(expr)
    raise TypeError(f"no rule for {type(expr).__name__}")


def _selected(selector: promql.VectorSelector) -> Labels:
    labels = labels_of_series(selector.name)
    _must_have(labels, [matcher.name for matcher in selector.matchers.matchers], selector)
    return labels


def _aggregated(expr: promql.AggregateExpr) -> Labels:
    inner = _labels(expr.expr)
    if expr.modifier is None:
        return inner if str(expr.op) in ("topk", "bottomk") else frozenset()
    named = frozenset(expr.modifier.labels)
    _must_have(inner, named, expr)
    return named if expr.modifier.type == promql.AggModifierType.By else inner - named


def _called(call: promql.Call) -> Labels:
    inner = frozenset[str]().union(*(_labels(argument) for argument in call.args))
    if call.func.name == "histogram_quantile":
        _must_have(inner, ["le"], call)
        return inner - {"le"}
    return inner


def _joined(expr: promql.BinaryExpr) -> Labels:
    left, right = _labels(expr.lhs), _labels(expr.rhs)
    if _is_scalar(expr.lhs) or _is_scalar(expr.rhs):
        return left | right
    if str(expr.op) == "or":
        return left | right
    on = _joined_on(expr, left, right)
    many = expr.modifier is not None and "group_" in str(expr.modifier)
    return left if many or str(expr.op) in SET_OPERATORS else on


def _joined_on(expr: promql.BinaryExpr, left: Labels, right: Labels) -> Labels:
    if expr.modifier is None or expr.modifier.matching is None:
        if left != right:
            raise UnknownError(f"{sorted(left)} never matches {sorted(right)} in {expr}")
        return left
    on = frozenset(expr.modifier.matching.labels)
    _must_have(left & right, on, expr)
    return on


def _is_scalar(expr: promql.Expr) -> bool:
    match expr:
        case promql.ParenExpr() | promql.UnaryExpr():
            return _is_scalar(expr.expr)
        case promql.BinaryExpr():
            return _is_scalar(expr.lhs) and _is_scalar(expr.rhs)
    if isinstance(expr, promql.Call):
        return bool(expr.func.name == "time")
    return isinstance(expr, promql.NumberLiteral)


def _must_have(labels: Labels, named: "list[str] | Labels", where: object) -> None:
    if missing := set(named) - labels:
        raise UnknownError(f"no label {sorted(missing)} in {where}, there are {sorted(labels)}")
