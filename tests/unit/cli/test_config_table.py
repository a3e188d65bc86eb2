"""The table of all keys is up to date, complete and true; `config check` says what a file changes."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from cluster.cli.main import main
from cluster.cli.tools.config_table import Key, UndocumentedError, keys, keys_of, render
from cluster.config import ConfigError, config_from
from experts.host.bounds import Seconds, Text, setting
from tests.support.tiny import write_checkpoint
from tests.unit.cli.key_values import inside, outside

PAGE = Path(__file__).parents[3] / "deploy" / "configuration.md"
NUMBERS = ("integer", "number", "integer or null")


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == render(), "run: expertmesh config table > deploy/configuration.md"


def test_every_key_is_there() -> None:
    expected = [f"{section}.{key}" for section, values in config_from({}).to_dict().items() for key in values]
    assert [key.name for key in keys()] == expected


@dataclass(frozen=True)
class Documented:
    """A section.

    Args:
        good: what it is, over
            two lines
        flag: whether
        bare: what it is
        empty:

    Raises:
        other: not a key
    """

    good: Annotated[int, setting("bytes", ge=1)] = 1
    flag: bool = False
    bare: int = 0
    empty: Seconds = 1.0
    other: Text = ""


def test_a_key_that_lacks_something_is_named() -> None:
    rows = keys_of("part", Documented)
    assert next(rows).cells() == ("`part.good`", "integer", "bytes", "`1`", "at least 1", "what it is, over two lines")
    assert next(rows).cells() == ("`part.flag`", "boolean", "-", "`false`", "true, false", "whether")
    with pytest.raises(UndocumentedError, match=r"part\.bare: its type lacks unit and bounds"):
        next(rows)


@pytest.mark.parametrize("name", ["empty", "other"])
def test_a_key_without_a_meaning_is_named(name: str) -> None:
    kind = type("One", (), {"__doc__": Documented.__doc__, "__annotations__": {name: Text}, name: ""})
    with pytest.raises(UndocumentedError, match=f"part.{name}: its docstring entry lacks meaning"):
        list(keys_of("part", dataclass(kind)))


def set_to(key: Key, value: Any) -> dict[str, Any]:
    section, _, name = key.name.partition(".")
    return {section: {name: value}}


@pytest.mark.parametrize("key", [key for key in keys() if outside(key)], ids=lambda key: key.name)
def test_the_bounds_of_the_table_are_those_of_the_code(key: Key) -> None:
    for value in outside(key):
        with pytest.raises(ConfigError, match=f"^{re.escape(f'{key.name} is {value!r}, it must ')}"):
            config_from(set_to(key, value))
    for value in inside(key):
        config_from(set_to(key, value))


@pytest.mark.parametrize("key", ["router_wait", "poll", "connect_timeout", "connection_age", "link_silence"])
def test_check_names_the_new_key_for_an_old_one(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(f"front:\n  {key}_s: 2\n")
    assert main(["config", "check", str(file)]) == 2
    assert capsys.readouterr().err == f"expertmesh: front.{key}_s is called front.{key}_seconds now\n"


def test_units_of_time_are_named_one_way() -> None:
    assert [key.name for key in keys() if key.bounds.unit == "seconds" and not key.name.endswith("_seconds")] == []


def test_every_number_has_bounds_that_are_tested() -> None:
    assert [key.name for key in keys() if key.type in NUMBERS and not outside(key)] == []


def test_check_prints_what_a_file_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("experts:\n  shards: 3\n  checksum: false\nlogging:\n  format: json\n")
    assert main(["config", "check", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "experts.shards = 3 (default 2)",
        'logging.format = "json" (default "auto")',
    ]


def test_check_of_a_file_that_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("")
    assert main(["config", "check", str(file)]) == 0
    assert "everything has its default" in capsys.readouterr().out


def test_check_of_a_wrong_file_is_one_line_and_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("tracing:\n  endpoint: collector\n")
    assert main(["config", "check", str(file)]) == 2
    shown = capsys.readouterr()
    assert "tracing.endpoint is 'collector'" in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")


def test_check_reads_the_checkpoint_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path, "mixtral")
    file = tmp_path / "cluster.yaml"
    file.write_text(f"model:\n  checkpoint: {tmp_path}\nexperts:\n  shards: 99\n")
    assert main(["config", "check", str(file)]) == 0
    assert main(["config", "check", str(file), "--checkpoint"]) == 2
    assert "shards is 99, it must be from 1 to 6" in capsys.readouterr().err
    file.write_text(f"model:\n  checkpoint: {tmp_path}\n")
    assert main(["config", "check", str(file), "--checkpoint"]) == 0


def test_table_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "table"]) == 0
    assert capsys.readouterr().out == PAGE.read_text()


def test_check_says_that_tracing_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "router_service.front.telemetry.spans", raising=False)
    file = tmp_path / "cluster.yaml"
    file.write_text("tracing:\n  endpoint: http://127.0.0.1:4317\n")
    assert main(["config", "check", str(file)]) == 2
    assert "pip install 'expertmesh[tracing]'" in capsys.readouterr().err
