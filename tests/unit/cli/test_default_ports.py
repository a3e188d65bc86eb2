"""The ports of a server that is told none, and what it says before it imports what takes seconds."""

import io
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli.client_command import DEFAULT_TARGET
from cluster.serve.default_ports import DefaultPorts
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
        front = FrontConfig(grpc_port=0, metrics_port=None)
        assert ports.choose(front, {"grpc_port", "metrics_port"}, 1) == front


def test_it_says_what_it_starts_before_anything_heavy_is_imported() -> None:
    program = (
        "import sys; from cluster.cli import serve_command; from cluster.cli.main import main\n"
        "def stop(_): print([name for name in ('torch', 'ray') if name in sys.modules]); raise ValueError('enough')\n"
        "serve_command.check_model = stop\n"
        "sys.exit(main(['serve', '--shards', '3', '--grpc-port', '0', '--metrics-port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    line = "expertmesh: starting the bundled model on a Ray of its own; shards: 3, routers: 1, fronts: 1"
    assert done.stderr.splitlines() == [line, "expertmesh: enough"]
