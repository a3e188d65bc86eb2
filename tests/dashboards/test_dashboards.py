"""The dashboards' JSON is what the code makes, and holds together."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.generate import ALERTS, BOARDS, FOLDER, as_json, main, with_runbooks
from deploy.grafana.panel import Board, Kind, Panel, State
from tests.dashboards.rules import RUNBOOKS

BOARD = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
VARIABLES = ("datasource", "namespace", "model", "router", "shard")
WIKI = "https://wiki/runbooks"
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
    for name in VARIABLES[1:]:
        assert variables[name]["multi"]
        assert variables[name]["includeAll"]
        # Not the list of values: All matches series without the label too, as those of a plain scrape are.
        assert variables[name]["allValue"] == ".*"
        assert variables[name]["current"]["value"] == "$__all"
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
def test_links_lead_to_the_other_dashboards(board: Board) -> None:
    data = _json(board)
    (link,) = data["links"]
    assert link["type"] == "dashboards"
    assert link["tags"] == data["tags"] == ["expertmesh"]
    assert link["includeVars"]


@BOARD
def test_with_an_address_links_lead_to_runbooks_that_exist(board: Board) -> None:
    pages = [url.removeprefix(f"{WIKI}/") for url in _urls(json.loads(as_json(board, f"{WIKI}/")))]
    assert len(pages) == 1 + sum(bool(panel.runbook) for panel in board.panels)
    assert all((RUNBOOKS / page).is_file() for page in pages)


@BOARD
def test_without_one_no_runbook_is_linked(board: Board) -> None:
    assert _urls(_json(board)) == []
    assert "http" not in as_json(board)


def test_names_are_unique() -> None:
    for names in ([board.uid for board in BOARDS], [board.title for board in BOARDS]):
        assert len(set(names)) == len(names)
    for board in BOARDS:
        titles = [panel.title for panel in board.panels]
        assert len(set(titles)) == len(titles)


def test_every_panel_has_data_in_some_state_or_after_a_move() -> None:
    """What a move brings, `test_panels` has from promtool."""
    without = [panel.title for board in BOARDS for panel in board.panels if not panel.states & set(State)]
    assert without == ["Gain, promised and given"]


def test_alerts_get_the_same_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = ["--out", str(tmp_path / "boards"), "--alerts", str(tmp_path / "alerts")]
    monkeypatch.setattr("sys.argv", ["generate", "--runbooks", WIKI, *places])
    main()
    written = {path.name: path.read_text() for path in (tmp_path / "alerts").iterdir()}
    originals = {path.name: path.read_text() for path in ALERTS.iterdir()}
    # The address and nothing else has changed, and giving another one later works.
    assert {name: with_runbooks(text, "deploy/runbooks") for name, text in written.items()} == originals
    rules = [rule for text in written.values() for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    assert all((RUNBOOKS / rule["annotations"]["runbook_url"].removeprefix(f"{WIKI}/")).is_file() for rule in rules)
    assert WIKI in (tmp_path / "boards" / f"{BOARDS[0].uid}.json").read_text()


def test_provisioning_finds_the_source_and_the_files() -> None:
    folder = Path(FOLDER).parent / "provisioning"
    source = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((folder / "dashboards" / "expertmesh.yml").read_text())["providers"][0]
    scrape = yaml.safe_load((FOLDER.parents[1] / "prometheus" / "prometheus.yml").read_text())["global"]
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    assert provider["type"] == "file"
    assert Path(provider["options"]["path"]).is_absolute()


def test_a_quiet_expert_is_a_hole_and_no_zero() -> None:
    (matrix,) = [panel for board in BOARDS for panel in _json(board)["panels"] if panel["title"] == "Layer x expert"]
    assert [one["options"]["emptyValue"] for one in matrix["transformations"]] == ["empty"]


@pytest.mark.parametrize(
    "panel", [p for board in BOARDS for p in board.panels if p.kind is Kind.HEATMAP], ids=lambda panel: panel.title
)
def test_a_heatmap_says_that_it_draws_rates(panel: Panel) -> None:
    assert all("rate(" in query.expr for query in panel.queries)
    assert " per second " in panel.about


@BOARD
def test_legends_name_the_namespace(board: Board) -> None:
    for panel in (one for one in _json(board)["panels"] if one["type"] not in ("row", "heatmap", "table")):
        for legend in (target["legendFormat"] for target in panel["targets"]):
            assert legend == "__auto" or legend.endswith(" {{namespace}}")


def _urls(data: dict[str, Any]) -> list[str]:
    links = [*data["links"], *(link for panel in data["panels"] for link in panel.get("links", []))]
    return [link["url"] for link in links if link["type"] == "link"]


def _json(board: Board) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((FOLDER / f"{board.uid}.json").read_text())
    return data
