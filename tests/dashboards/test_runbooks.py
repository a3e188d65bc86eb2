"""Runbooks name series, settings, pages and commands that there are."""

import re
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import main
from cluster.config import ClusterConfig
from tests.dashboards.expressions import UnknownError, labels_of_series
from tests.dashboards.rules import RUNBOOKS, alerts

PAGES = sorted(RUNBOOKS.glob("*.md"))
SERIES = re.compile(r"\b(?:[a-z_]+:)?expertmesh_[a-z0-9_]+(?::[a-z0-9_]+)?")
SETTING = re.compile(r"`(model|weights|experts|router|front|balance|metrics|cluster)\.([a-z_]+)")
COMMAND = re.compile(r"`expertmesh ([a-z]+)")
LINK = re.compile(r"\]\(([^)]+)\)")


def written(pattern: re.Pattern[str]) -> Any:
    """Run a test with each thing that a page writes of, `thing`; its name says on which page."""
    found = [(page.name, match[0], match.groups()) for page in PAGES for match in pattern.finditer(page.read_text())]
    each = {(page, text): groups or (text,) for page, text, groups in found}
    return pytest.mark.parametrize(
        "thing", [pytest.param(it, id=f"{page}-{text}") for (page, text), it in each.items()]
    )


@written(SERIES)
def test_a_series_exists(thing: tuple[str]) -> None:
    assert _exists(thing[0]) or _exists(f"{thing[0]}_bucket")


@written(SETTING)
def test_a_setting_exists(thing: tuple[str, str]) -> None:
    section, key = thing
    assert key in ClusterConfig().to_dict()[section]


@written(COMMAND)
def test_a_command_exists(thing: tuple[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([thing[0], "--help"])
    assert stopped.value.code == 0, capsys.readouterr().err


@written(LINK)
def test_a_link_leads_somewhere(thing: tuple[str]) -> None:
    assert (RUNBOOKS / thing[0]).exists()


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
