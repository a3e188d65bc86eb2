"""What the chart tells Ray Serve, run as KubeRay runs it: put to the dashboard of a Ray that `ray start` started."""

import json
import os
import shlex
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router_service.client.channel import Tls
from router_service.client.client import Client
from router_service.front.auth.tokens import Role, new_token
from tests.e2e.ray_head import Ray, free_ports, get, put, ray_environment, ray_head, until_running, wait_for
from tests.e2e.server import descendants_of
from tests.helm.chart import CHART, named, ray_pods, rendered, serve_config
from tests.support.certificates import Certificate

pytestmark = [pytest.mark.ray, pytest.mark.e2e]

# Ray's autoscaler and dashboard on the head: no policy lets anyone in, and a second Ray on one machine goes without.
HEAD_METRICS = (44217, 44227)


def places(cluster: dict[str, Any]) -> dict[str, int]:
    """Ray's custom resources of all groups together, read as the shell that KubeRay starts reads them."""
    total: dict[str, int] = {}
    for group in cluster["workerGroupSpecs"]:
        (text,) = shlex.split(group["rayStartParams"]["resources"])
        for name, number in json.loads(text).items():
            total[name] = total.get(name, 0) + number * group["replicas"]
    return total


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    return rendered(CHART / "ci" / "security-values.yaml")


@pytest.fixture(scope="module")
def ray(objects: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    """A Ray head as one pod would start it, with the places of all groups."""
    cluster = named(objects, "RayService")["spec"]["rayClusterConfig"]
    params = cluster["headGroupSpec"]["rayStartParams"] | {"num-cpus": 3, "resources": json.dumps(places(cluster))}
    with ray_head(tmp_path_factory.mktemp("r"), params) as started:
        yield started


@dataclass
class Served:
    """Where the Front is, and what a client must show."""

    target: str
    page: int
    tls: Tls
    token: str


def mounted(args: dict[str, Any], folder: Path) -> tuple[Tls, str]:
    """Make the files that the chart mounts and point the configuration at them; return what a client needs."""
    authority = Certificate.authority()
    (ca, _), (cert, key) = authority.write(folder, "ca"), authority.sign("front").write(folder, "tls")
    client = authority.sign("client").write(folder, "client")
    token, line = new_token("tester", Role.ADMIN)
    (folder / "tokens").write_text(line + "\n")
    (folder / "secret").write_text("what the chart draws: 48 characters\n")
    front, cluster = args["front"], args["cluster"]
    places = {front[key]: key for key in ("tls_cert", "tls_key", "tls_client_ca", "tokens_file")}
    assert places == {
        "/etc/expertmesh/tls/tls.crt": "tls_cert",
        "/etc/expertmesh/tls/tls.key": "tls_key",
        "/etc/expertmesh/tls/ca.crt": "tls_client_ca",
        "/etc/expertmesh/tokens/tokens": "tokens_file",
    }
    front |= {
        "tls_cert": str(cert),
        "tls_key": str(key),
        "tls_client_ca": str(ca),
        "tokens_file": str(folder / "tokens"),
    }
    assert cluster["secret_file"] == "/etc/expertmesh/secret/secret"
    cluster["secret_file"] = str(folder / "secret")
    return Tls(ca, *client), token


@pytest.fixture(scope="module")
def served(ray: Ray, objects: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The Front after the configuration has been put."""
    config = serve_config(objects)
    grpc_port, metrics_port, http_port = free_ports(3)
    args = config["applications"][0]["args"]
    folder = tmp_path_factory.mktemp("mounted")
    tls, token = mounted(args, folder)
    front = args["front"]
    assert front["host"] == front["metrics_host"] == front["http_host"] == "0.0.0.0"
    front |= {"host": "127.0.0.1", "grpc_port": grpc_port, "metrics_host": "127.0.0.1", "metrics_port": metrics_port}
    front |= {"http_host": "127.0.0.1", "http_port": http_port}
    put(ray, config)
    until_running(ray)
    return Served(f"127.0.0.1:{grpc_port}", http_port, tls, token)


async def test_answers(served: Served) -> None:
    async with Client(served.target, tls=served.tls, token=served.token) as client:
        text = "".join(
            [response.text async for response in client.generate("def main(", max_tokens=8, temperature=0.0)]
        )
        state = await client.cluster()
    assert text
    assert len(state.shards) == 2


async def test_refuses_who_has_no_token_or_certificate(served: Served) -> None:
    for tls, token, code in (
        (served.tls, None, grpc.StatusCode.UNAUTHENTICATED),
        (Tls(served.tls.ca), served.token, grpc.StatusCode.UNAVAILABLE),
        (None, served.token, grpc.StatusCode.UNAVAILABLE),
    ):
        async with Client(served.target, tls=tls, token=token) as client:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.cluster()
        assert refused.value.code() == code


def test_the_page_asks_for_the_same(served: Served) -> None:
    """The live page: a certificate and a token where the API asks for them."""
    ours = ssl.create_default_context(cafile=str(served.tls.ca))
    ours.load_cert_chain(str(served.tls.cert), str(served.tls.key))
    url = f"https://127.0.0.1:{served.page}/api/model"
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {served.token}"})
    with urllib.request.urlopen(asked, timeout=10, context=ours) as answer:
        assert json.load(answer)["family"] == "qwen3_moe"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=10, context=ours)
    assert refused.value.code == 401
    refused.value.close()
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(asked, timeout=10, context=ssl.create_default_context(cafile=str(served.tls.ca)))


@pytest.mark.usefixtures("served")
def test_every_process_takes_its_place(ray: Ray) -> None:
    """What the groups offer is what the processes ask for: on Kubernetes this puts each on its group's pods."""
    code = (
        f"import ray, json; ray.init(address='127.0.0.1:{ray.port}', logging_level=40);"
        "print(json.dumps(ray.available_resources()))"
    )
    env = ray_environment()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    left = json.loads(done.stdout.splitlines()[-1])
    assert {name: left.get(name, 0) for name in places_asked()} == dict.fromkeys(places_asked(), 0)


def places_asked() -> tuple[str, ...]:
    return ("expertmesh_front", "expertmesh_router", "expertmesh_shard")


@pytest.mark.usefixtures("served")
def test_probes_answer(ray: Ray) -> None:
    """The paths that the kubelet asks, head and worker."""
    assert get(f"http://127.0.0.1:{ray.agent}/api/local_raylet_healthz") == b"success"
    assert get(f"{ray.url}/api/gcs_healthz") == b"success"


def ready(ray: Ray, objects: list[dict[str, Any]], *more: str) -> tuple[bool, str]:
    """What the readiness probe of the pods that compute says, and why."""
    (python, *command) = ray_pods(objects)["compute"]["spec"]["containers"][0]["readinessProbe"]["exec"]["command"]
    assert python == "python3"
    command = [sys.executable, *command, "--head", ray.url, "--node", f"http://127.0.0.1:{ray.agent}", *more]
    done = subprocess.run(command, capture_output=True, text=True, env=ray_environment(), timeout=30)
    assert (done.returncode in (0, 1), done.stderr) == (True, "")
    return done.returncode == 0, done.stdout


@pytest.mark.usefixtures("served")
def test_pods_that_compute_are_ready_when_all_is_whole(ray: Ray, objects: list[dict[str, Any]]) -> None:
    """Not before the application is there, and not while a shard that died loads its weights again."""
    assert ready(ray, objects) == (True, "")
    assert ready(ray, objects, "--name", "another") == (False, "another is not deployed yet\n")
    os.kill(replica_pid(ray, "ray::ServeReplica:expertmesh:Shard-1"), signal.SIGKILL)
    wait_for(lambda: None if ready(ray, objects)[0] else True, "the probe to see it", ray.log)
    wait_for(lambda: True if ready(ray, objects)[0] else None, "the shard's return", ray.log)
    assert replica_pid(ray, "ray::ServeReplica:expertmesh:Shard-1")


def replica_pid(ray: Ray, title: str) -> int:
    """The process of the one replica of a deployment."""
    (pid,) = (pid for pid in descendants_of(ray.process.pid) if command_of(pid) == title)
    return pid


@pytest.mark.usefixtures("served")
def test_only_the_data_plane_takes_free_ports(ray: Ray, objects: list[dict[str, Any]]) -> None:
    """The policy of Ray's own ports names them; what listens beside them is the data plane's policies' matter."""
    policy = named(objects, "NetworkPolicy", "mesh-expertmesh-ray")
    ranges = [(one["port"], one.get("endPort", one["port"])) for one in policy["spec"]["ingress"][0]["ports"]]
    moved = {ray.port, ray.dashboard, ray.agent, *ray.others, *HEAD_METRICS}
    free: dict[str, int] = {}
    for pid in descendants_of(ray.process.pid):
        for port in listening(pid) - moved:
            if not any(first <= port <= last for first, last in ranges):
                name = command_of(pid).removeprefix("ray::ServeReplica:expertmesh:")
                free[name] = free.get(name, 0) + 1
    # Each replica of Serve's has a gRPC server for handles that ask for it, as ours do not; it asks for Ray's token.
    assert free == {"Shard-0": 2, "Shard-1": 2, "Router": 2, "Front": 4, "Balancer": 1}


@pytest.mark.usefixtures("served")
def test_serves_own_servers_ask_for_rays_token(ray: Ray) -> None:
    """A replica's gRPC server for handles unpickles what it is sent: without Ray's token nothing gets there."""
    refused = 0
    for pid in descendants_of(ray.process.pid):
        if command_of(pid).startswith("ray::ServeReplica"):
            answers = [without_a_token(port) for port in listening(pid)]
            assert grpc.StatusCode.OK not in answers
            refused += answers.count(grpc.StatusCode.UNAUTHENTICATED)
    assert refused == 5  # two shards, a router, a Front, the balancer


def without_a_token(port: int) -> grpc.StatusCode:
    """How a port of a replica answers a call on Serve's own protocol."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=30)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def command_of(pid: int) -> str:
    """The first word of a process's command line; nothing once it has gone, as idle workers of Ray's do."""
    try:
        return next(iter(psutil.Process(pid).cmdline()), "")
    except psutil.Error:
        return ""


def listening(pid: int) -> set[int]:
    try:
        found = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return set()
    return {one.laddr.port for one in found if one.status == psutil.CONN_LISTEN}


def test_drain_lets_go(ray: Ray, served: Served) -> None:
    """The pods' preStop hook: after it, health is NOT_SERVING, the readiness probe fails, and all have drained."""
    with grpc.secure_channel(served.target, served.tls.credentials()) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        assert health.Check(health_pb2.HealthCheckRequest()).status == serving
        command = [
            sys.executable,
            "-m",
            "cluster.cli.main",
            "drain",
            "--address",
            f"127.0.0.1:{ray.port}",
            "--seconds",
            "5",
        ]
        command += ["--here", "--notice", "1"]
        done = subprocess.run(command, capture_output=True, text=True, env=ray_environment(), timeout=90)
        assert (done.returncode, done.stderr) == (0, "")
        try:
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=30).status != serving
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - either answer makes the pod not ready
