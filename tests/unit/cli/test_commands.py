"""What the command line does before there is a cluster."""

import errno
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from prometheus_client import CollectorRegistry

from cluster.cli.main import main
from cluster.processes.signals import sigterm_held
from router_service.client.channel import Tls
from router_service.front.telemetry.metrics_server import MetricsServer

HEAVY = ("torch", "ray", "numpy")


def test_the_command_line_is_there_without_torch_and_ray() -> None:
    """They take seconds to import: `generate`, `status` and --help need none of them."""
    program = f"import sys, cluster.cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_what_starts_while_sigterm_is_held_never_gets_it() -> None:
    sleeping = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)"]
    with sigterm_held():
        process = subprocess.Popen(sleeping, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
    finally:
        process.kill()
        process.communicate()


def test_a_held_sigterm_comes_in_the_end() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with sigterm_held():
            signal.raise_signal(signal.SIGTERM)
            assert seen == []
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def raylet(pid: int, *words: str) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, info={"name": "raylet", "cmdline": ["raylet", *words]})


def test_drain_does_not_guess_which_ray_is_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    others = [SimpleNamespace(pid=1, info={"name": "init", "cmdline": None}), raylet(7, "--gcs-address=10.0.0.1:6379")]
    monkeypatch.setattr(psutil, "process_iter", lambda _: [*others, raylet(8, "--gcs-address=10.0.0.1:7000")])
    assert main(["drain"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("expertmesh: cannot drain expertmesh: several Rays run here, name one by --address: ")
    assert said.endswith("10.0.0.1:6379, 10.0.0.1:7000\n")


async def page(port: int, ports: int) -> MetricsServer:
    server = MetricsServer(CollectorRegistry(), "m")
    await server.start("127.0.0.1", port, ports)
    return server


async def test_metrics_pages_of_one_machine_take_the_first_free_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        second = await page(first, 20)
        third = await page(first, 20)
        try:
            assert first < second.port < third.port < first + 20
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{first}") as caught:
                await page(first, 1)
            assert caught.value.errno == errno.EADDRINUSE
        finally:
            await second.stop()
            await third.stop()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--grpc-port", "50051", "--metrics-port", "9090"], "front.metrics_port: cannot listen on 127.0.0.1:9091: no"),
        (["--grpc-port", "50051", "--metrics-port", "65535"], "front.metrics_port: 2 Fronts need a port each"),
    ],
)
def test_fronts_of_one_machine_need_as_many_metrics_ports(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def listen(address: tuple[str, int]) -> SimpleNamespace:
        if address[1] == 9091:
            raise OSError(errno.EADDRINUSE, "not free")
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(socket, "create_server", listen)
    assert main(["serve", "--fronts", "2", *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_file_of_tls_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match=f"^ca: cannot read {tmp_path}/none: No such file"):
        Tls(ca=tmp_path / "none").credentials()
    assert main(["generate", "hello", "--ca", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"expertmesh: ca: cannot read {tmp_path}/none: No such file or directory\n"
