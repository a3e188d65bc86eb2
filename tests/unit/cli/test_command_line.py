"""The command line's own manners: readers that go, flags that nobody knows, help and version."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from cluster.cli.broken_pipe import EXIT_BROKEN_PIPE
from cluster.cli.main import main

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
