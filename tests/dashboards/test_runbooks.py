"""Runbooks name series, settings, pages and commands that there are."""

import re
from pathlib import Path

import pytest

from cluster.cli.main import main
from cluster.config import ClusterConfig
from tests.dashboards.expressions import UnknownError, labels_of_series
from tests.dashboards.rules import RUNBOOKS, alerts

PAGES = sorted(RUNBOOKS.glob("*.md"))
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
SERIES = re.compile(r"\b(?:[a-z_]+:)?expertmesh_[a-z0-9_]+(?::[a-z0-9_]+)?")
SETTING = re.compile(r"`(model|weights|experts|router|front|metrics|cluster)\.([a-z_]+)")
COMMAND = re.compile(r"`expertmesh ([a-z]+)")


@PAGE
def test_series_exist(page: Path) -> None:
    for name in set(SERIES.findall(page.read_text())):
        assert _exists(name) or _exists(f"{name}_bucket"), name


@PAGE
def test_settings_exist(page: Path) -> None:
    config = ClusterConfig().to_dict()
    for section, key in SETTING.findall(page.read_text()):
        assert key in config[section], f"{section}.{key}"


@PAGE
def test_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in set(COMMAND.findall(page.read_text())):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0, capsys.readouterr().err


@PAGE
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        assert (RUNBOOKS / target).exists(), target


def test_the_index_is_complete() -> None:
    index = (RUNBOOKS / "README.md").read_text()
    listed = set(re.findall(r"\| (ExpertMesh\w+) \| \[[\w-]+\]\(([\w-]+\.md)\)", index))
    assert listed == {(alert.alert, Path(alert.annotations["runbook_url"]).name) for alert in alerts()}
    assert {page for _, page in listed} | {"README.md"} == {page.name for page in PAGES}


def _exists(name: str) -> bool:
    try:
        labels_of_series(name)
    except UnknownError:
        return False
    return True
