"""The dashboards' JSON is what the code makes, and holds together."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.generate import BOARDS, FOLDER, as_json
from deploy.grafana.panel import Board, Kind, State
from tests.dashboards.rules import RUNBOOKS

BOARD = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
VARIABLES = ("datasource", "model", "router", "shard", "runbooks")
WIDTH = 24


@BOARD
def test_the_file_is_what_the_code_makes(board: Board) -> None:
    written = (FOLDER / f"{board.uid}.json").read_text()
    assert written == as_json(board), "run: python -m deploy.grafana.generate"


def test_there_is_a_file_for_each_dashboard_and_no_other() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{board.uid}.json" for board in BOARDS}


@BOARD
def test_variables(board: Board) -> None:
    variables = {one["name"]: one for one in _json(board)["templating"]["list"]}
    assert tuple(variables) == VARIABLES
    for name in ("model", "router", "shard"):
        assert variables[name]["multi"]
        assert variables[name]["includeAll"]
        assert variables[name]["datasource"]["uid"] == "${datasource}"


@BOARD
def test_expressions_use_no_other_variables(board: Board) -> None:
    known = {*VARIABLES, "__rate_interval", "__range"}
    for panel in board.panels:
        for text in (panel.title, *(query.expr for query in panel.queries)):
            assert set(re.findall(r"\$(\w+)", text)) <= known


@BOARD
def test_panels_have_ids_a_place_and_a_source(board: Board) -> None:
    panels = _json(board)["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    drawn = [panel for panel in panels if panel["type"] != "row"]
    assert [panel["title"] for panel in drawn] == [panel.title for panel in board.panels]
    for panel in drawn:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= WIDTH


@BOARD
def test_panels_do_not_overlap(board: Board) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _json(board)["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@BOARD
def test_what_shows_this_moment_asks_for_this_moment(board: Board) -> None:
    for panel, drawn in zip(board.panels, (p for p in _json(board)["panels"] if p["type"] != "row"), strict=True):
        instant = panel.kind in (Kind.STAT, Kind.TABLE, Kind.MATRIX)
        assert all(target["instant"] is instant and target["range"] is not instant for target in drawn["targets"])


@BOARD
def test_links_lead_to_the_other_dashboards_and_to_runbooks_that_exist(board: Board) -> None:
    data = _json(board)
    kinds = {link["type"]: link for link in data["links"]}
    assert kinds["dashboards"]["tags"] == data["tags"] == ["expertmesh"]
    assert kinds["dashboards"]["includeVars"]
    links = [*data["links"], *(link for panel in data["panels"] for link in panel.get("links", []))]
    pages = [link["url"].removeprefix("${runbooks}/") for link in links if link["type"] == "link"]
    assert len(pages) == 1 + sum(bool(panel.runbook) for panel in board.panels)
    assert all((RUNBOOKS / page).is_file() for page in pages)


def test_names_are_unique() -> None:
    for names in ([board.uid for board in BOARDS], [board.title for board in BOARDS]):
        assert len(set(names)) == len(names)
    for board in BOARDS:
        titles = [panel.title for panel in board.panels]
        assert len(set(titles)) == len(titles)


def test_every_panel_has_data_in_some_state() -> None:
    assert all(panel.states & set(State) for board in BOARDS for panel in board.panels)


def test_runbooks_address_can_be_given() -> None:
    assert '"query": "https://wiki/runbooks"' in as_json(BOARDS[0], "https://wiki/runbooks")


def test_provisioning_finds_the_source_and_the_files() -> None:
    folder = Path(FOLDER).parent / "provisioning"
    source = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((folder / "dashboards" / "expertmesh.yml").read_text())["providers"][0]
    scrape = yaml.safe_load((FOLDER.parents[1] / "prometheus" / "prometheus.yml").read_text())["global"]
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    assert provider["type"] == "file"
    assert Path(provider["options"]["path"]).is_absolute()


def _json(board: Board) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((FOLDER / f"{board.uid}.json").read_text())
    return data
