"""The rule files as data."""

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "deploy" / "runbooks"
RULE_FILES = tuple(sorted([*PROMETHEUS.glob("rules/*.yml"), *PROMETHEUS.glob("alerts/*.yml")]))
# A query in an annotation: what stands between printf's quotes.
TEMPLATE_QUERY = re.compile(r'query \(printf "([^"]*)"')
TEMPLATE_LABEL = re.compile(r"\$labels\.(\w+)")


@dataclass(frozen=True)
class Rule:
    """A recording rule or an alert; one of `record` and `alert` is empty."""

    file: str
    expr: str
    record: str = ""
    alert: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called, for a test's id."""
        return f"{self.record or self.alert}{''.join(f' {value}' for value in self.labels.values())}"

    @property
    def queries(self) -> list[str]:
        """Queries of the annotations, for model m of no namespace."""
        texts = self.annotations.values()
        found = [query for text in texts for query in TEMPLATE_QUERY.findall(text)]
        return [query.replace("namespace='%s'", "namespace=''").replace("%s", "m") for query in found]

    @property
    def used_labels(self) -> set[str]:
        """Labels that the annotations name."""
        return {label for text in self.annotations.values() for label in TEMPLATE_LABEL.findall(text)}


@cache
def all_rules() -> tuple[Rule, ...]:
    """All rules of all files, in order."""
    return tuple(
        Rule(path.name, rule["expr"], **{key: rule[key] for key in _KEPT if key in rule})
        for path in RULE_FILES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    )


def recordings() -> list[Rule]:
    """The recording rules."""
    return [rule for rule in all_rules() if rule.record]


def alerts() -> list[Rule]:
    """The alerts."""
    return [rule for rule in all_rules() if rule.alert]


_KEPT = ("record", "alert", "labels", "annotations")
