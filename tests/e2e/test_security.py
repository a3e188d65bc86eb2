"""A whole cluster with mutual TLS, tokens and a secret in a file: who is refused, how, and what the log says."""

import asyncio
import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from router_service.client.channel import Tls
from router_service.client.client import Client
from router_service.front.auth.tokens import Role, new_token
from tests.e2e.server import Server, held, serving
from tests.e2e.shared_ray import SharedRay
from tests.support.certificates import Certificate, replace

pytestmark = [pytest.mark.e2e, pytest.mark.ray]

LIMITS: dict[str, dict[str, object]] = {
    "ann": {},
    "root": {},
    "one stream": {"max_concurrent_streams": 1},
    "two a minute": {"requests_per_minute": 2},
    "small": {"max_request_bytes": 300},
    "past": {"expires": "2020-01-01"},
}
OLD_SECRET, NEW_SECRET = "the first secret of this cluster", "the second secret of this cluster"
# Files are looked at once a second.
REREAD_SECONDS = 1.5


@dataclass
class Secured:
    """The server, and what its clients need."""

    server: Server
    directory: Path
    servers: Certificate
    clients: Certificate
    tokens: dict[str, str]
    ray: SharedRay
    earlier: dict[Path, int]

    def tls(self, days: float = 1, ca: str = "servers") -> Tls:
        cert, key = self.clients.sign("client", days).write(self.directory, f"client{days}")
        return Tls(self.directory / f"{ca}.crt", cert, key)

    def client(self, name: str = "", tls: Tls | None = None) -> Client:
        return Client(self.server.target, tls=tls or self.tls(), token=self.tokens.get(name, name))

    def log(self) -> str:
        """What has been logged on the shared Ray since before this cluster was there."""
        return "\n".join(
            data[self.earlier.get(path, 0) :].decode(errors="replace") for path, data in contents(self.ray).items()
        )


def contents(ray: SharedRay) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in ray.logs().rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def secured(shared_ray: SharedRay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    servers, clients = Certificate.authority("servers"), Certificate.authority("clients")
    servers.write(directory, "servers")
    clients.write(directory, "clients")
    cert, key = servers.sign("server").write(directory, "server")
    tokens = write_tokens(directory / "tokens")
    (directory / "secret").write_text(OLD_SECRET)
    files = {"--tls-cert": cert, "--tls-key": key, "--tls-client-ca": directory / "clients.crt"}
    files |= {"--tokens-file": directory / "tokens", "--secret-file": directory / "secret"}
    flags = [str(part) for pair in files.items() for part in pair]
    flags += ["--grpc-host", "0.0.0.0", *shared_ray.joined_as("secured")]
    earlier = {path: len(data) for path, data in contents(shared_ray).items()}
    with serving(*flags, log=directory / "log") as server:
        server.target = server.target.replace("0.0.0.0", "127.0.0.1")
        yield Secured(server, directory, servers, clients, tokens, shared_ray, earlier)


def write_tokens(path: Path) -> dict[str, str]:
    tokens, lines = {}, []
    for name, limits in LIMITS.items():
        tokens[name], line = new_token(name, Role.ADMIN if name == "root" else Role.INFERENCE)
        lines.append(json.dumps(json.loads(line) | limits))
    path.write_text("\n".join(lines))
    return tokens


async def generate(client: Client, prompt: str = "def main(", tokens: int = 4) -> int:
    stream = client.generate(prompt, max_tokens=tokens, ignore_eos=True, timeout=60)
    return sum([len(response.token_ids) async for response in stream])


async def code_of(call: Coroutine[Any, Any, object]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def logged(secured: Secured, *lines: str, seconds: float = 60.0) -> None:
    """Wait until the log has a line with each of these."""
    deadline = time.monotonic() + seconds
    while missing := [line for line in lines if not re.search(line, secured.log())]:
        assert time.monotonic() < deadline, f"not in the log: {missing}"
        await asyncio.sleep(0.2)


async def test_tokens_and_roles(secured: Secured) -> None:
    async with secured.client("ann") as ann, secured.client("root") as root:
        assert await generate(ann) == 4
        assert len((await root.cluster()).shards) == 2
        assert await code_of(ann.cluster()) is grpc.StatusCode.PERMISSION_DENIED
    for name in ("", "em_wrong", "past"):
        async with secured.client(name) as stranger:
            assert await code_of(generate(stranger)) is grpc.StatusCode.UNAUTHENTICATED
            assert await stranger.health()
    refused = r"WARNING.*refused '/expertmesh\.v1\.{}' from ipv4:127\.0\.0\.1:\d+, reason {}, token {}: "
    await logged(
        secured,
        refused.format("Cluster/GetCluster", "role", "ann"),
        refused.format("Inference/Generate", "missing", "unknown"),
        refused.format("Inference/Generate", "unknown", "unknown"),
        refused.format("Inference/Generate", "expired", "past"),
    )


async def test_limits(secured: Secured) -> None:
    async with secured.client("one stream") as one, secured.client("two a minute") as two, secured.client("small") as s:
        running = one.generate("import os", max_tokens=900, ignore_eos=True, timeout=60)
        await anext(running)
        with held(secured.server.router()):
            assert await code_of(generate(one)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        await running.aclose()
        for _ in range(2):
            await two.model()
        assert await code_of(two.model()) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await generate(s) == 4
        assert await code_of(generate(s, "x" * 301)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        # Past the server's own limit gRPC itself refuses.
        async with secured.client("ann") as ann:
            assert await code_of(ann.tokenize("x" * (17 << 20))) is grpc.StatusCode.RESOURCE_EXHAUSTED
    await logged(secured, "reason streams, token one stream: ", "reason rate, token two a minute: ", "reason size, ")


async def test_client_certificates(secured: Secured) -> None:
    foreign = Tls(secured.directory / "servers.crt", *secured.servers.sign("x").write(secured.directory, "foreign"))
    for tls in (secured.tls(days=-1), foreign, Tls(secured.directory / "servers.crt")):
        async with secured.client("ann", tls) as stranger:
            assert await code_of(stranger.health(timeout=60)) is grpc.StatusCode.UNAVAILABLE
    async with Client(secured.server.target, token=secured.tokens["ann"]) as plaintext:
        assert await code_of(plaintext.health(timeout=60)) is grpc.StatusCode.UNAVAILABLE
    await logged(secured, "certificate has expired", "PEER_DID_NOT_RETURN_A_CERTIFICATE")


async def test_refusals_are_counted_and_nothing_secret_is_said(secured: Secured) -> None:
    async with secured.client("ann") as ann:
        assert await code_of(ann.cluster()) is grpc.StatusCode.PERMISSION_DENIED
    with urllib.request.urlopen(secured.server.metrics, timeout=10) as response:
        assert re.search(r'expertmesh_requests_refused_total{[^}]*reason="role"[^}]*} [1-9]', response.read().decode())
    said = secured.log() + secured.server.log.read_text()
    for secret in (*secured.tokens.values(), OLD_SECRET, NEW_SECRET):
        assert secret not in said


async def test_certificates_and_secret_are_replaced_under_a_running_stream(secured: Secured) -> None:
    async with secured.client("root") as old:
        running = old.generate("class Queue:", max_tokens=900, ignore_eos=True, timeout=120)
        count = len((await anext(running)).token_ids)
        successor = Certificate.authority("successor")
        successor.write(secured.directory, "successor")
        successor.sign("server").write(secured.directory, "server")
        replace(secured.directory / "secret", f"{NEW_SECRET}\n{OLD_SECRET}\n".encode())
        await asyncio.sleep(REREAD_SECONDS)
        async with secured.client("ann", secured.tls(ca="successor")) as new:
            assert await new.health(timeout=60)
            count += len((await anext(running)).token_ids)  # still running
            assert await generate(new) == 4
        async for response in running:
            count += len(response.token_ids)
        assert count == 900
        before = {shard.shard: shard.pid for shard in (await old.cluster()).shards}
    replace(secured.directory / "secret", f"{NEW_SECRET}\n".encode())
    await asyncio.sleep(REREAD_SECONDS)
    await a_new_shard_joins(secured, before)


async def a_new_shard_joins(secured: Secured, before: dict[int, int]) -> None:
    """A shard that starts now knows the new secret only; the router, which has not restarted, must know it too."""
    os.kill(before[0], signal.SIGKILL)
    deadline = time.monotonic() + 120
    async with secured.client("root", secured.tls(ca="successor")) as client:
        while True:
            shards = {shard.shard: shard for shard in (await client.cluster(timeout=60)).shards}
            if shards[0].pid != before[0] and shards[0].state == "ready":
                break
            assert time.monotonic() < deadline, shards
            await asyncio.sleep(0.2)
        assert await generate(client) == 4
    assert "could not prove" not in secured.log()
