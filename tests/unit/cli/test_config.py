"""One YAML file, flags above it, and an error that names the key."""

import socket
from pathlib import Path

import pytest

from cluster.cli.main import main, parser
from cluster.cli.serve.serve_flags import config_of
from cluster.config import ClusterConfig, ConfigError, config_from, load_config


def write(path: Path, text: str) -> Path:
    file = path / "cluster.yaml"
    file.write_text(text)
    return file


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "experts:\n  shards: 4\n  checksum: true\nfront:\n  grpc_port: 7\n")
    config = load_config(file, {"experts": {"shards": 3}})
    assert (config.experts.shards, config.experts.checksum, config.front.grpc_port) == (3, True, 7)


def test_the_fallback_is_a_flag() -> None:
    assert config_of(parser().parse_args(["serve"])).router.fallback == "wait"
    assert config_of(parser().parse_args(["serve", "--fallback", "next_best"])).router.fallback == "next_best"


def test_what_the_balancer_may_do_has_flags() -> None:
    for command in ("serve", "demo"):
        config = config_of(parser().parse_args([command]))
        assert (config.balance.automatic, config.balance.placement_file, config.experts.most_shards) == (False, "", 0)
        flags = ["--balance", "--placement", "saved.json", "--shards", "2", "--most-shards", "6"]
        config = config_of(parser().parse_args([command, *flags]))
        assert (config.balance.automatic, config.balance.placement_file) == (True, "saved.json")
        assert config.experts.most_shards == 6


def test_fewer_shards_than_there_are_to_be_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--shards", "4", "--most-shards", "3"]) == 2
    assert "experts.most_shards is 3, it must be 0 or at least experts.shards, 4" in capsys.readouterr().err


def test_a_key_may_stand_in_two_sections_and_override_what_is_merged(tmp_path: Path) -> None:
    merged = "router: &one {threads: 3}\nexperts:\n  <<: *one\n  threads: 2\n"
    config = load_config(write(tmp_path, merged), {})
    assert (config.router.threads, config.experts.threads) == (3, 2)


def test_plain_data_and_back() -> None:
    config = config_from({"experts": {"shards": 5}, "model": {"dtype": "float32"}})
    assert config_from(config.to_dict()) == config
    assert config_from({}) == ClusterConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("expert:\n  shards: 4\n", "unknown key expert, known: model, weights, experts"),
        ("experts:\n  shard: 4\n", "unknown key experts.shard, known: shards"),
        ("experts:\n  shards: many\n", "experts.shards is 'many'"),
        ("experts:\n  shards: 0\n", "experts.shards is 0, it must be at least 1"),
        ("experts:\n  backend: fast\n", "experts.backend is 'fast'"),
        ("router:\n  kv_memory_fraction: 1.5\n", "router.kv_memory_fraction is 1.5"),
        ("cluster:\n  drain_seconds: -1\n", "cluster.drain_seconds is -1"),
        ("router:\n  fallback: owl\n", "router.fallback is 'owl'"),
        ("model:\n  dtype: int8\n", "model.dtype is 'int8'"),
        ("- a\n- list\n", "must hold sections"),
        ("experts: 3\n", "must hold sections"),
        ("[]\n", "must hold sections"),
        ("front: []\n", "must hold sections"),
        ("front: ''\n", "must hold sections"),
        ("1: {}\n", "the key 1 is no text"),
        ("experts: {shards: 1, 3: 4}\n", "the key 3 is no text"),
        ("experts: {null: 4}\n", "the key None is no text"),
        ("experts: {2026-11-29: 4}\n", "is no text"),
        ("a: [\n", "cannot be read"),
        ("experts:\n  shards: 4\nrouter: {}\nexperts:\n  checksum: true\n", "experts stands twice, in lines 1 and 4"),
        ("experts:\n  shards: 4\n  shards: 5\n", "shards stands twice, in lines 2 and 3: keep one"),
        ("experts: {shards: 4, 'shards': 5}\n", "shards stands twice, in lines 1 and 1"),
    ],
)
def test_an_error_names_the_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), {})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "/no/such/checkpoint"], "/no/such/checkpoint: no such checkpoint directory"),
        (["serve", "--shards", "99"], "shards is 99, it must be from 1 to 16"),
        (["serve", "--config", "/no/such.yaml"], "/no/such.yaml: cannot be read"),
        (["serve", "--device", "cuda"], "model.device is cuda, but torch sees no GPU here"),
        (
            ["generate", "--target", "127.0.0.1:1", "hello"],
            "no server answers there: start one with",
        ),
    ],
)
def test_the_command_says_one_line_and_exits_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    errors = [line for line in shown.err.splitlines() if not line.startswith("expertmesh: starting ")]
    assert len([line for line in errors if "is taken: using" not in line]) == 1
    assert "Traceback" not in shown.err
    assert not shown.out


def test_a_port_that_is_taken_is_said_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--grpc-port", str(port), "--metrics-port", "0"]) == 2
    said = capsys.readouterr().err
    assert f"front.grpc_port: cannot listen on 127.0.0.1:{port}" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", [["config"], ["serve", "--bogus"], ["serve", "--shards", "x"], ["dance"]])
def test_wrong_flags_are_one_line_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_foreign_kernels_distribution_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.cli.main.version", lambda _: "0.4.1")
    assert main(["status", "--target", "127.0.0.1:1"]) == 2
    assert "pip uninstall kernels" in capsys.readouterr().err
