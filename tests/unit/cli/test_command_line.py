"""The command line's own manners: readers that go, flags that nobody knows, help and version."""

import io
import json
import os
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from cluster.cli.broken_pipe import EXIT_BROKEN_PIPE
from cluster.cli.main import main
from cluster.serve.default_ports import DefaultPorts
from router_service.front.config import FrontConfig

ROOT = Path(__file__).parents[3]
# As in a user's shell, where Python writes to a pipe in blocks.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("arguments", [["config", "table"], ["inspect", "deepseek-v3"], ["--help"], [], ["--version"]])
def test_it_ends_in_silence_when_nobody_reads(arguments: list[str]) -> None:
    """Little output fails only when it is written out at the end, much of it earlier."""
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "cluster.cli.main", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (EXIT_BROKEN_PIPE, "")


def test_a_reader_of_errors_that_goes_is_no_error_either() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "cluster.cli.main", "inspect", "/no/such"]
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stdout) == (EXIT_BROKEN_PIPE, b"")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--shard", "3"], "unrecognized arguments: --shard; did you mean --shards? (see expertmesh serve "),
        (["generate", "hi", "--max-token=3"], "--max-token=3; did you mean --max-tokens? (see expertmesh generate "),
        (["config", "check", "f.yaml", "--check"], "--check; did you mean --checkpoint? (see expertmesh config check "),
        (["token", "new", "ann", "--rol", "admin"], "--rol admin; did you mean --role?"),
        (["drain", "--sec", "3"], "unrecognized arguments: --sec 3"),
        (["status", "--qqq"], "unrecognized arguments: --qqq (see expertmesh status --help)"),
        (["--vers"], "did you mean --version?"),
    ],
)
def test_no_flag_is_taken_for_another(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_alone_it_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: expertmesh")


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"expertmesh {version('expertmesh')}\n"


LONG = "x" * 5000


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", f"/tmp/{LONG}", "/tmp/a\0b", f"/{'y/' * 3000}"])
@pytest.mark.parametrize("command", ["inspect", "serve"])
def test_what_can_be_no_path_is_one_line(command: str, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    ports = ["--grpc-port", "0", "--metrics-port", "0"] if command == "serve" else []
    assert main([command, path, *ports]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "starting" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("expertmesh: ")


def test_a_checkpoint_cannot_speak_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = {"weight_map": {"a": "x\x1b[31m\r\0\ny\ud800.safetensors"}}
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert main(["inspect", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.removesuffix("\n").isprintable()
    assert said.encode()


def test_output_that_cannot_be_written_is_one_line() -> None:
    command = [sys.executable, "-m", "cluster.cli.main", "config", "table"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "expertmesh: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(("flag", "key"), [("--grpc-host", "host"), ("--metrics-host", "metrics_host")])
@pytest.mark.parametrize("host", ["203.0.113.9", "no such host"])
def test_an_address_of_another_machine_is_one_line(
    flag: str, key: str, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", flag, host, "--allow-unauthenticated"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "is taken: using" not in line]
    assert len(said) == 1
    assert said[0].startswith(f"expertmesh: front.{key}: cannot listen on '{host}'")


def test_one_port_for_two_keys_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    assert main(["serve", "--grpc-port", port, "--http-port", port, "--metrics-port", "0"]) == 2
    assert f"front.http_port: cannot listen on 127.0.0.1:{port}: " in capsys.readouterr().err


def test_a_default_port_keeps_off_one_that_is_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with DefaultPorts(io.StringIO(), {"grpc_port": port}) as ports:
        chosen = ports.choose(FrontConfig(http_port=port), {"http_port", "metrics_port"}, 1)
    assert chosen.grpc_port > port
