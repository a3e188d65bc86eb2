"""promtool's word on configurations, rules and their unit tests; and what an alert must bring along."""

import re
from pathlib import Path

import pytest
import yaml

from tests.dashboards import promtool
from tests.dashboards.rules import PROMETHEUS, ROOT, RULE_FILES, RUNBOOKS, Rule, alerts, recordings

UNIT_TESTS = sorted((Path(__file__).parent / "promtool").glob("*.yml"))
SECTIONS = ("What it means", "What users notice", "How to look", "What to do", "When it resolves")


@pytest.mark.parametrize("path", sorted(PROMETHEUS.glob("*.yml")), ids=lambda path: path.name)
def test_a_configuration_is_valid_and_finds_the_rules(path: Path) -> None:
    said = promtool.run("check", "config", str(path))
    assert f"{len(RULE_FILES)} rule files found" in said


def test_both_configurations_scrape_the_same_job_with_the_same_rules() -> None:
    static, discovered = (
        yaml.safe_load((PROMETHEUS / name).read_text()) for name in ("prometheus.yml", "prometheus-http-sd.yml")
    )
    assert static["global"] == discovered["global"]
    assert static["rule_files"] == discovered["rule_files"]
    assert [job["job_name"] for job in (*static["scrape_configs"], *discovered["scrape_configs"])] == ["expertmesh"] * 2


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_rules_are_valid(path: Path) -> None:
    promtool.run("check", "rules", str(path))


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.name)
def test_rules_do_what_their_unit_tests_say(path: Path) -> None:
    promtool.run("test", "rules", str(path))


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alert_says_what_it_is_and_where_to_look(alert: Rule) -> None:
    assert alert.labels["severity"] in ("critical", "warning", "info")
    assert {"summary", "description", "runbook_url"} <= set(alert.annotations)
    page = ROOT / alert.annotations["runbook_url"]
    text = page.read_text()
    assert page.parent == RUNBOOKS
    assert text.startswith(f"# {alert.alert}\n")
    assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == SECTIONS
    assert "expertmesh status" in text or alert.alert == "ExpertMeshDeadExperts"


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alerts_description_has_values(alert: Rule) -> None:
    assert "{{" in alert.annotations["description"]
    assert "$labels" in alert.annotations["summary"] + alert.annotations["description"]


@pytest.mark.parametrize("alert", sorted({(a.alert, a.labels["severity"]) for a in alerts()}))
def test_every_alert_has_unit_tests_of_firing_and_of_silence_before_and_after(alert: tuple[str, str]) -> None:
    """In one and the same case: quiet, firing with this severity, quiet again."""
    name, severity = alert
    cases = [case for path in UNIT_TESTS for case in yaml.safe_load(path.read_text())["tests"]]
    courses = [_course(case, name, severity) for case in cases]
    assert any(re.search("quiet (fires )+quiet", " ".join(course)) for course in courses), courses


def _course(case: dict[str, object], alert: str, severity: str) -> list[str]:
    checks = [check for check in case.get("alert_rule_test", []) if check["alertname"] == alert]  # type: ignore[attr-defined]
    fires = [any(e["exp_labels"]["severity"] == severity for e in check["exp_alerts"]) for check in checks]
    return ["fires" if one else "quiet" for one in fires]


def test_recordings_are_named_level_metric_operations() -> None:
    for rule in recordings():
        assert re.fullmatch(r"[a-z_]+:expertmesh_[a-z0-9_]+:[a-z0-9_]+", rule.record)
