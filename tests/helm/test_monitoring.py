"""Rules and dashboards as a release installs them: whole, of its namespace alone, with runbooks where they are."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.generate import BOARDS, as_json, with_runbooks
from tests.dashboards import promtool
from tests.dashboards.expressions import selectors
from tests.dashboards.rules import RULE_FILES
from tests.helm.chart import CHART, Object, rendered, template

MONITORING = CHART / "ci" / "monitoring-values.yaml"
WIKI = "https://wiki.internal/runbooks"
# What `tests.helm.chart` installs into.
HERE = 'namespace="serving"'
ANYWHERE = ('prometheusRule={"enabled": true, "ownNamespaceOnly": false}',)


def groups(*sets: str) -> list[Object]:
    """The groups of all PrometheusRules, in the order of the files."""
    objects = rendered(MONITORING, sets=sets)
    by_name = {one["metadata"]["name"]: one["spec"]["groups"] for one in objects if one["kind"] == "PrometheusRule"}
    names = [f"mesh-expertmesh-{file.parent.name}-{file.stem}" for file in RULE_FILES]
    assert sorted(names) == sorted(by_name)
    return [group for name in names for group in by_name[name]]


def boards(*sets: str) -> dict[str, Any]:
    """The dashboards by file."""
    maps = [one["data"] for one in rendered(MONITORING, sets=sets) if one["kind"] == "ConfigMap" and "data" in one]
    texts = {name: text for data in maps for name, text in data.items() if name.endswith(".json")}
    return {name: json.loads(text) for name, text in texts.items()}


def written(runbooks: str = "deploy/runbooks") -> list[Object]:
    """The groups as deploy/prometheus has them."""
    texts = [with_runbooks(file.read_text(), runbooks) for file in RULE_FILES]
    return [group for text in texts for group in yaml.safe_load(text)["groups"]]


def without_matcher(data: list[Object], matcher: str) -> list[Object]:
    plain: list[Object] = json.loads(
        json.dumps(data).replace(json.dumps(f"{matcher}, ")[1:-1], "").replace(json.dumps(f"{{{matcher}}}")[1:-1], "")
    )
    return plain


@pytest.mark.parametrize(
    ("sets", "matcher"), [((), HERE), (ANYWHERE, 'namespace=~".*"')], ids=["own namespace", "anywhere"]
)
def test_every_selector_is_restricted_and_rules_are_whole_otherwise(sets: tuple[str, ...], matcher: str) -> None:
    installed = groups(*sets)
    for rule in (rule for group in installed for rule in group["rules"]):
        found = selectors(rule["expr"])
        assert found
        assert rule["expr"].count(matcher) == len(found)
    assert without_matcher(installed, matcher) == written()


def test_runbooks_are_linked_where_they_are_published() -> None:
    assert without_matcher(groups(f'runbooksUrl="{WIKI}/"'), HERE) == written(WIKI)
    assert boards(f'runbooksUrl="{WIKI}/"') == {
        f"{board.uid}.json": json.loads(as_json(board, WIKI)) for board in BOARDS
    }


def test_without_an_address_alerts_name_a_path_and_dashboards_link_nothing() -> None:
    assert boards() == {f"{board.uid}.json": json.loads(as_json(board)) for board in BOARDS}


@pytest.mark.parametrize("url", ["wiki/runbooks", "javascript:alert(1)", "https://wiki/a b", 'https://wiki/"'])
def test_another_address_is_refused(url: str) -> None:
    done = template(MONITORING, sets=(f"runbooksUrl={json.dumps(url)}",))
    assert done.returncode != 0
    assert "runbooksUrl" in done.stderr


def test_rules_of_a_release_are_of_its_namespace(tmp_path: Path) -> None:
    """Another namespace's cluster is neither recorded, nor does it hide that this one has no target left."""
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups()}))
    (tmp_path / "test.yml").write_text(yaml.safe_dump(ELSEWHERE))
    promtool.run("test", "rules", str(tmp_path / "test.yml"))


MISSING = {
    "exp_labels": {"severity": "critical", "job": "expertmesh", "namespace": "serving"},
    "exp_annotations": {
        "summary": "No metrics from any ExpertMesh target (namespace serving)",
        "description": "Prometheus knows no target of the job expertmesh (namespace serving). Its Front is down or "
        "unreachable; every other alert is blind until it is back.",
        "runbook_url": "deploy/runbooks/target-missing.md",
    },
}
ELSEWHERE = {
    "rule_files": ["rules.yml"],
    "evaluation_interval": "15s",
    "tests": [
        {
            "interval": "15s",
            "input_series": [
                {"series": 'up{job="expertmesh", namespace="other", instance="a"}', "values": "1x40"},
                {"series": 'expertmesh_shard_up{namespace="other", model="m", shard="0"}', "values": "0x40"},
                {"series": 'expertmesh_generation_tokens_total{namespace="other", model="m"}', "values": "0+1x40"},
                {"series": 'expertmesh_generation_tokens_total{namespace="serving", model="m"}', "values": "0+15x40"},
            ],
            "alert_rule_test": [
                {"eval_time": "5m", "alertname": "ExpertMeshTargetMissing", "exp_alerts": [MISSING]},
                {"eval_time": "5m", "alertname": "ExpertMeshShardDown", "exp_alerts": []},
            ],
            "promql_expr_test": [
                {
                    "expr": "sum by (namespace) (model:expertmesh_generation_tokens:rate5m)",
                    "eval_time": "8m",
                    "exp_samples": [{"labels": '{namespace="serving"}', "value": 1}],
                }
            ],
        }
    ],
}
