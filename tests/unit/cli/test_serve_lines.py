"""What `serve` says before it starts Ray: which kernels compute, and what it costs where they are not the fastest."""

import pytest

from cluster.cli.main import parser
from cluster.cli.serve.serve_command import run_cluster
from kernels import select
from kernels.native.library import VARIABLE, NativeUnavailableError, available, library


def serve(*flags: str) -> int:
    """The exit code; as far as the checks go."""
    args = parser().parse_args(["serve", "--device", "cpu", *flags])
    return run_cluster(args, lambda *_: None, start=lambda *_: 0)


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise NativeUnavailableError("the native kernels were not built: install g++")

    monkeypatch.setattr(select, "native_library", missing)


@pytest.mark.skipif(not available(), reason="the native kernels are not built: there is no C++ compiler")
def test_it_says_which_instruction_set_computes(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve() == 0
    line = f"expertmesh: native kernels compute, with {library().instruction_set}\n"
    assert capsys.readouterr().err.count(line) == 1


@pytest.mark.usefixtures("not_built")
def test_it_warns_without_native_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve() == 0
    said = "warning: the native kernels were not built: install g++. Until then torch computes, and a layer takes"
    assert capsys.readouterr().err.count(f"expertmesh: {said} {select.TORCH_COST}\n") == 1


@pytest.mark.usefixtures("not_built")
def test_it_says_nothing_of_other_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve("--address", "127.0.0.1:6379") == 0
    assert "kernels" not in capsys.readouterr().err


@pytest.mark.usefixtures("not_built")
def test_native_is_refused_where_it_cannot_be(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = tmp_path_factory.mktemp("config") / "config.yaml"
    config.write_text("experts: {backend: native}\n")
    assert serve("--config", str(config)) == 2
    assert "experts.backend is native, but the native kernels were not built" in capsys.readouterr().err


def test_a_wrong_instruction_set_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong() -> None:
        raise ValueError(f"{VARIABLE} is 'sse9', it must be one of avx2 on this CPU")

    monkeypatch.setattr(select, "native_library", wrong)
    assert serve() == 2
    assert f"{VARIABLE} is 'sse9', it must be one of avx2 on this CPU" in capsys.readouterr().err
