"""The ports of a server that is told none, and what it says before it imports what takes seconds."""

import io
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from cluster.cli.client.client_command import DEFAULT_TARGET
from cluster.cli.main import main
from cluster.serve import default_ports
from cluster.serve.default_ports import DefaultPorts, held
from router_service.front.config import FrontConfig

ROOT = Path(__file__).parents[3]


@pytest.fixture
def defaults() -> dict[str, int]:
    """Ports that are free here, whatever else runs on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return {"grpc_port": one.getsockname()[1], "metrics_port": other.getsockname()[1]}


def test_clients_ask_the_default_port() -> None:
    program = "from cluster.serve.default_ports import DEFAULT_PORTS; print(DEFAULT_PORTS['grpc_port'])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"127.0.0.1:{done.stdout.strip()}" == DEFAULT_TARGET


def test_a_default_that_is_taken_is_said_and_the_next_one_taken(defaults: dict[str, int]) -> None:
    said = io.StringIO()
    port = defaults["grpc_port"]
    with socket.create_server(("127.0.0.1", port)), DefaultPorts(said, defaults) as ports:
        chosen = ports.choose(FrontConfig(), set(), 1).grpc_port
    assert chosen > port
    assert f"port {port} of 127.0.0.1 is taken: using {chosen} for --grpc-port" in said.getvalue()


def test_two_servers_that_start_together_take_different_ports(defaults: dict[str, int]) -> None:
    said = io.StringIO()
    with DefaultPorts(said, defaults) as one, DefaultPorts(said, defaults) as other:
        first, second = (ports.choose(FrontConfig(), set(), 2) for ports in (one, other))
    assert first.grpc_port < second.grpc_port
    assert (first.metrics_port or 0) + 2 <= (second.metrics_port or 0)


def test_a_port_that_was_given_stays(defaults: dict[str, int]) -> None:
    with DefaultPorts(io.StringIO(), defaults) as ports:
        front = FrontConfig(grpc_port=defaults["grpc_port"], metrics_port=None, http_port=None)
        assert ports.choose(front, {"grpc_port", "metrics_port"}, 1) == front


def test_any_free_port_is_decided_once_and_held_for_each_front_that_comes() -> None:
    asked = FrontConfig(grpc_port=0, metrics_port=0, http_port=0)
    with DefaultPorts(io.StringIO(), {}) as ports:
        front = ports.choose(asked, set(), 1)
        numbers = [port for port in (front.grpc_port, front.metrics_port, front.http_port) if port]
        assert len(set(numbers)) == 3
        for port in numbers * 2:  # a Front, and the one that replaces it
            socket.create_server(("127.0.0.1", port)).close()
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind(("127.0.0.1", numbers[0]))


def test_fronts_that_share_any_port_have_a_metrics_port_each() -> None:
    asked = FrontConfig(grpc_port=0, metrics_port=0, http_port=None)
    with DefaultPorts(io.StringIO(), {}) as ports, ExitStack() as opened:
        front = ports.choose(asked, set(), 3)
        for _ in range(3):
            opened.enter_context(socket.create_server(("127.0.0.1", front.grpc_port), reuse_port=True))
        for place in range(3):
            opened.enter_context(socket.create_server(("127.0.0.1", (front.metrics_port or 0) + place)))


def test_any_port_of_an_address_that_is_not_here_names_the_key() -> None:
    asked = FrontConfig(metrics_host="192.0.2.77")
    with (
        DefaultPorts(io.StringIO(), {}) as ports,
        pytest.raises(ValueError, match=r"^front.metrics_host: cannot"),
    ):
        ports.choose(asked, set(), 1)


def test_consecutive_ports_are_searched_for_until_all_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def one_is_taken(host: str, count: int) -> list[socket.socket]:
        tries.append(count)
        return [] if len(tries) < 3 else held(host, count)

    monkeypatch.setattr(default_ports, "held", one_is_taken)
    with DefaultPorts(io.StringIO(), {}) as ports:
        assert ports.choose(FrontConfig(grpc_port=1, http_port=None), set(), 2).metrics_port
    assert tries == [2, 2, 2]


@pytest.mark.parametrize(("ports", "lines"), [(("0", "7"), 1), (("7", "7"), 0)])
def test_it_says_where_a_node_decides(
    ports: tuple[str, str], lines: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file.yaml").write_text("front: {http_port: null}\nmodel: {checkpoint: /nowhere}\n")
    flags = ["--address", "auto", "--fronts", "2", "--grpc-port", ports[0], "--metrics-port", ports[1]]
    assert main(["serve", "--config", str(tmp_path / "file.yaml"), *flags]) == 2
    assert capsys.readouterr().err.count("one that is replaced may have others, so set them") == lines


def test_it_says_what_it_starts_before_anything_heavy_is_imported() -> None:
    program = (
        "import sys; from cluster.cli.serve import serve_command; from cluster.cli.main import main\n"
        "def stop(_): print([name for name in ('torch', 'ray') if name in sys.modules]); raise ValueError('enough')\n"
        "serve_command.check_model = stop\n"
        "sys.exit(main(['serve', '--shards', '3', '--grpc-port', '0', '--metrics-port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    line = "expertmesh: starting the bundled model on a Ray of its own; shards: 3, routers: 1, fronts: 1"
    assert done.stderr.splitlines() == [line, "expertmesh: enough"]
