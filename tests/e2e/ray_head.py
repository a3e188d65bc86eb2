"""A Ray head of its own, as `ray start` makes one, and what KubeRay asks of its dashboard."""

import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tests.e2e.server import descendants_of, environment, gone, kill

START_SECONDS = 120.0
TOKEN = "a-token-of-this-test-which-KubeRay-would-draw"


@dataclass
class Ray:
    """The ports that it was told to take."""

    process: "subprocess.Popen[bytes]"
    port: int
    dashboard: int
    agent: int
    others: list[int]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"


def free_ports(number: int) -> list[int]:
    """Ports that are free, and that the kernel will not give to somebody else before they are bound.

    Those come from a range of its own, which these are outside of where a machine leaves room for that; Ray's workers
    take theirs below 20000.
    """
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    outside = [port for port in range(20_000, 65_000) if not low <= port <= high]
    candidates = outside if len(outside) >= 20 * number else list(range(20_000, 65_000))
    random.SystemRandom().shuffle(candidates)
    return list(islice(filter(_is_free, candidates), number))


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ray itself waits half a minute for its workers; here nobody needs their last words."""
    family = descendants_of(process.pid)
    process.terminate()
    kill(gone(family, 3.0))
    process.wait(30)


def ray_environment() -> dict[str, str]:
    """With Ray's own token: what KubeRay gives the pods for `rayAuth.mode: token`."""
    return environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def ray_head(temp: Path, params: Mapping[str, Any]) -> Iterator[Ray]:
    """Run a head on free ports of loopback until the block ends; `params` are of `ray start`."""
    port, dashboard, agent, *more = free_ports(8)
    names = ("node-manager-port", "object-manager-port", "runtime-env-agent-port", "dashboard-agent-grpc-port")
    all_params = {**params, **dict(zip(names, more, strict=False)), "metrics-export-port": more[4]}
    all_params |= {"port": port, "dashboard-port": dashboard, "dashboard-agent-listen-port": agent}
    all_params |= {"node-ip-address": "127.0.0.1", "dashboard-host": "127.0.0.1"}
    flags = [f"--{name}={value}" for name, value in all_params.items()]
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--temp-dir={temp}", *flags]
    with (temp / "out").open("wb") as output:
        process = subprocess.Popen(
            command, env=ray_environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    started = Ray(process, port, dashboard, agent, more, temp / "out")
    try:
        wait_for(lambda: _healthz(started), "Ray", started.log)
        yield started
    finally:
        _end(process)


def _healthz(ray: Ray) -> bytes:
    assert ray.process.poll() is None, ray.log.read_text()[-2000:]
    return get(f"{ray.url}/api/gcs_healthz")


def get(url: str) -> bytes:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        body: bytes = answer.read()
        return body


def put(ray: Ray, config: dict[str, Any]) -> None:
    """Have Serve run a configuration, or change to it where an older one runs: returns before it does."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    body = json.dumps(config).encode()
    request = urllib.request.Request(f"{ray.url}/api/serve/applications/", body, headers, method="PUT")
    urllib.request.urlopen(request, timeout=60).close()


def until_running(ray: Ray) -> None:
    def running() -> bool | None:
        answer = json.loads(get(f"{ray.url}/api/serve/applications/"))["applications"]
        application = answer.get("expertmesh", {})
        assert application.get("status") != "DEPLOY_FAILED", application["message"]
        return True if application.get("status") == "RUNNING" else None

    wait_for(running, "the application", ray.log)


def wait_for(ask: Callable[[], Any], what: str, log: Path) -> Any:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if (answer := ask()) is not None:
                return answer
        except OSError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"{what} did not come up: {log.read_text()[-2000:]}")
