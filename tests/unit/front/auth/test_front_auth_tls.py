"""TLS and mutual TLS on the Front's port, certificates that are replaced, and the context for HTTP."""

import asyncio
import ssl
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from router_service.client.channel import Tls
from router_service.client.client import Client
from router_service.front.auth.tls import ServerTls, read_certificates
from router_service.front.auth.tokens import Role, new_token
from router_service.front.config import FrontConfig
from tests.support.certificates import Certificate, replace
from tests.unit.front.calls import collect, ids_of
from tests.unit.front.commands import ROOT, command
from tests.unit.front.front_fakes import WAIT_S, until
from tests.unit.front.front_world import World
from tests.unit.front.pki import Pki


async def start(world: World, settings: dict[str, str]) -> str:
    await world.router(step_s=0.005)
    await world.front(**settings)
    return f"localhost:{world.server.grpc_port}"


def client(world: World, target: str, tls: Tls | None) -> Client:
    world.clients.append(Client(target, tls=tls))
    return world.clients[-1]


async def is_refused(call: Awaitable[object]) -> bool:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_tls_proves_the_server_and_plaintext_is_not_spoken(world: World, pki: Pki) -> None:
    target = await start(world, pki.settings())
    good = client(world, target, Tls(pki.ca))
    await good.wait_ready(10)
    assert len(ids_of(await collect(good, "hello", max_tokens=2))) == 2
    for wrong in (Tls(pki.client_ca), Tls(), None):
        assert await is_refused(client(world, target, wrong).health(timeout=WAIT_S))


async def test_mutual_tls_wants_a_good_certificate(world: World, pki: Pki) -> None:
    target = await start(world, pki.settings(mutual=True))
    good = client(world, target, pki.client("good"))
    await good.wait_ready(10)
    assert (await good.model()).name == "tiny"
    strangers = [Tls(pki.ca), pki.client("late", days=-1), pki.client("foreign", issuer=pki.servers)]
    for stranger in strangers:
        assert await is_refused(client(world, target, stranger).health(timeout=WAIT_S))


async def test_certificates_are_replaced_while_a_stream_runs(world: World, pki: Pki) -> None:
    target = await start(world, pki.settings())
    old = client(world, target, Tls(pki.ca))
    await old.wait_ready(10)
    router = world.routers[0]
    router.stall_after_steps = 3  # making certificates may take longer than any stream
    running = asyncio.create_task(collect(old, "hello", max_tokens=200))
    await until(lambda: router.steps == 3)
    successor = Certificate.authority("successor")
    ca, _ = successor.write(pki.directory, "successor")
    successor.sign("server").write(pki.directory, "server")
    new = client(world, target, Tls(ca))
    await new.wait_ready(10)
    assert not running.done()
    router.stall_after_steps = None
    assert len(ids_of(await running)) == 200


async def test_a_half_replaced_pair_is_not_used(world: World, pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    target = await start(world, pki.settings())
    successor = Certificate.authority("successor")
    ca, _ = successor.write(pki.directory, "successor")
    cert, key = successor.sign("server").write(pki.directory, "fresh")
    replace(pki.cert, cert.read_bytes())
    await client(world, target, Tls(pki.ca)).wait_ready(10)
    assert "stays in force: front.tls_cert, front.tls_key: " in caplog.text
    replace(pki.key, key.read_bytes())
    await client(world, target, Tls(ca)).wait_ready(10)


async def test_the_context_for_http_takes_new_certificates_too(pki: Pki) -> None:
    tls = ServerTls(FrontConfig(**pki.settings()))  # type: ignore[arg-type]
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=tls.http_context())
    port = server.sockets[0].getsockname()[1]

    async def issuer(ca: Path) -> str:
        context = ssl.create_default_context(cafile=str(ca))
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        name = str(dict(pair[0] for pair in writer.get_extra_info("peercert")["issuer"])["commonName"])
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        return name

    assert await issuer(pki.ca) == "servers"
    successor = Certificate.authority("successor")
    ca, _ = successor.write(pki.directory, "successor")
    successor.sign("server").write(pki.directory, "server")
    assert await issuer(ca) == "successor"
    server.close()
    await server.wait_closed()


def test_what_is_wrong_with_certificates_names_setting_and_file(pki: Pki) -> None:
    other, other_key = pki.servers.sign("other").write(pki.directory, "other")
    nothing = pki.directory / "nothing"
    text = pki.directory / "text"
    text.write_text("no PEM")
    for arguments, message in (
        ((nothing, pki.key), f"front.tls_cert: {nothing}: cannot be read"),
        ((pki.cert, nothing), f"front.tls_key: {nothing}: cannot be read"),
        ((pki.cert, other_key), f"front.tls_cert, front.tls_key: {pki.cert}, {other_key}: "),
        ((text, pki.key), f"front.tls_cert, front.tls_key: {text}, "),
        ((pki.cert, pki.key, nothing), f"front.tls_client_ca: {nothing}: cannot be read"),
        ((pki.cert, pki.key, text), f"front.tls_client_ca: {text}: no certificates in PEM"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (all of the message is looked at below)
            read_certificates(*arguments)
        assert str(caught.value).startswith(message)
    assert read_certificates(other, other_key).client_ca is None


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(pki: Pki) -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    pair = pki.servers.sign("server")
    pair.write(pki.directory, "server")
    locked = pair.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    replace(pki.key, locked)
    with pytest.raises(ValueError, match="unencrypted key in PEM: the key is encrypted"):
        read_certificates(pki.cert, pki.key)


async def test_the_commands_speak_tls_and_send_a_token(world: World, pki: Pki, tmp_path: Path) -> None:
    token, line = (
        subprocess.run([sys.executable, "-m", "cluster.cli.main", "token", "new", "ann"], capture_output=True, cwd=ROOT)
        .stdout.decode()
        .splitlines()
    )
    (tmp_path / "tokens").write_text(line)
    target = await start(world, pki.settings(mutual=True) | {"tokens_file": str(tmp_path / "tokens")})
    mine = pki.client("mine")
    flags = ("--target", target, "--ca", str(mine.ca), "--cert", str(mine.cert), "--key", str(mine.key))
    await client(world, target, mine).wait_ready(10)
    code, out, err = await command("generate", *flags, "--token", token, "hello", "--max-tokens", "1")
    assert (code, err) == (0, "")
    assert out
    code, _, err = await command("generate", *flags, "hello")
    assert (code, err.count("\n")) == (2, 1)
    assert "UNAUTHENTICATED: a token is required" in err
    code, _, err = await command("status", *flags, "--token", token)
    assert code == 2
    assert "PERMISSION_DENIED: token ann has the role inference, this needs the role admin" in err
    assert token not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ca", "/nowhere"), "cannot read /nowhere: No such file or directory"),
        (("--tls", "--cert", "/nowhere"), "cert and key belong together"),
        (("--token", "not one"), "the token must be printable ASCII without spaces"),
    ],
)
async def test_wrong_arguments_are_one_line_and_show_no_token(arguments: tuple[str, ...], message: str) -> None:
    code, out, err = await command("status", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert "not one" not in err


async def test_the_environments_token_is_used_and_not_shown(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import argparse

    from cluster.cli.client.client_command import client_of
    from cluster.cli.client.status_command import add_parser

    parser = argparse.ArgumentParser()
    token, line = new_token("ann", Role.ADMIN)
    (tmp_path / "tokens").write_text(line)
    target = await start(world, {"tokens_file": str(tmp_path / "tokens")})
    monkeypatch.setenv("EXPERTMESH_TOKEN", f"{token}\n")
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["status", "--target", target])
    world.clients.append(client_of(args))
    assert (await world.clients[-1].model()).name == "tiny"
    assert token not in repr(args)
    _, out, _ = await command("status", "--help")
    assert token not in out
