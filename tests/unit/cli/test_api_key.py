"""The API's key: from a flag, the file or the environment, and seen by nobody."""

from pathlib import Path

import pytest

from cluster.cli.main import main, parser
from cluster.cli.serve.serve_flags import config_of
from cluster.config import HIDDEN, config_from, load_config, with_environment

KEY = "sk-of-this-test"
VARIABLE = "EXPERTMESH_API_KEY"


def test_the_flag_overrides_the_file_and_the_file_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config_of(parser().parse_args(["serve"])).front.api_key == ""
    monkeypatch.setenv(VARIABLE, KEY)
    assert config_of(parser().parse_args(["serve"])).front.api_key == KEY
    file = tmp_path / "cluster.yaml"
    file.write_text("front: {api_key: of-the-file}\n")
    assert load_config(file, {}).front.api_key == "of-the-file"
    flags = ["serve", "--config", str(file), "--api-key", "of-the-flag"]
    assert config_of(parser().parse_args(flags)).front.api_key == "of-the-flag"


def test_it_counts_as_authentication_off_loopback() -> None:
    data = with_environment({"front": {"host": "0.0.0.0"}}, {VARIABLE: KEY})
    assert config_from(data).front.api_key == KEY
    assert with_environment({"front": {"api_key": "mine"}}, {VARIABLE: KEY})["front"]["api_key"] == "mine"
    assert with_environment({"front": None}, {}) == {"front": None}


def test_it_is_neither_printed_nor_handed_to_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(f"front: {{api_key: {KEY}, host: 0.0.0.0}}\n")
    assert main(["config", "check", str(file)]) == 0
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err
    assert f'front.api_key = "{HIDDEN}"' in printed.out
    config = load_config(file, {})
    assert KEY not in f"{config!r} {config.to_dict()}"
    # What processes get is a configuration that they accept.
    assert config_from(config.to_dict()).front.host == "0.0.0.0"


def test_a_key_that_no_header_can_have_is_refused_without_being_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--api-key", f"{KEY} and more"]) == 2
    said = capsys.readouterr().err
    assert "front.api_key must be printable ASCII without spaces" in said
    assert KEY not in said
