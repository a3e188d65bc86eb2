"""The data plane's secret in a file: rotated in any order, without a restart, no connection lost."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from experts.host import watched_files
from experts.transport.channel import Channel, connect
from experts.transport.frame import FrameError, Header, Kind
from experts.transport.listener import FrameServer
from experts.transport.trust.credentials import Credentials
from experts.transport.trust.handshake import client_handshake, server_handshake
from experts.transport.trust.secret import SecretFile, read_secrets
from tests.support.meeting import meet
from tests.support.mesh import DIGEST

OLD, NEW = "the old secret of all", "the new secret of all"
KNOWLEDGE = {"old": [OLD], "both": [NEW, OLD], "new": [NEW]}


class Echo:
    def opened(self, channel: Channel) -> None: ...
    def closed(self, channel: Channel) -> None: ...

    def frame(self, channel: Channel, header: Header, payload: memoryview) -> None:
        channel.send(Kind.STATUS, header.sequence, [bytes(payload)])


def write(path: Path, knowledge: str) -> Path:
    path.write_text("\n".join(KNOWLEDGE[knowledge]) + "\n")
    return path


def looked_at_each_time(path: Path) -> SecretFile:
    """By its clock a second passes before each look."""
    return SecretFile(path, map(float, itertools.count()).__next__)


@pytest.mark.parametrize(("client", "server"), list(itertools.product(KNOWLEDGE, KNOWLEDGE)))
def test_two_processes_meet_where_they_share_a_secret(tmp_path: Path, client: str, server: str) -> None:
    ours, theirs = (SecretFile(write(tmp_path / side, k)) for side, k in (("client", client), ("server", server)))
    client_side = client_handshake(Credentials(ours, DIGEST), 7)
    server_side = server_handshake(Credentials(theirs, DIGEST), 7)
    if {client, server} == {"old", "new"}:
        with pytest.raises(FrameError, match="could not prove"):
            meet(client_side, server_side)
    else:
        assert meet(client_side, server_side)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FrameServer]:
    secret = looked_at_each_time(write(tmp_path / "server", "old"))
    server = FrameServer(
        role="shard",
        index=0,
        replica="s0",
        node="node",
        host="127.0.0.1",
        credentials=Credentials(secret, DIGEST),
        checksum=False,
        handler=Echo(),
    )
    yield server
    server.close()


@pytest.mark.parametrize("first", ["client", "server"])
def test_a_rotation_in_either_order(server: FrameServer, tmp_path: Path, first: str) -> None:
    """Old everywhere, then both here and there, then new here and there; what is connected stays."""
    second = "server" if first == "client" else "client"
    secret = looked_at_each_time(write(tmp_path / "client", "old"))
    channels = [connect(server.endpoint, "node", Credentials(secret, DIGEST), 10.0)]
    for knowledge in ("both", "new"):
        for side in (first, second):
            write(tmp_path / side, knowledge)
            channels.append(connect(server.endpoint, "node", Credentials(secret, DIGEST), 10.0))
    for channel in channels:
        channel.send(Kind.STATUS, 3, [b"still here"])
        assert bytes(channel.receive()[1]) == b"still here"
        channel.close()
    with pytest.raises(ConnectionError):
        connect(server.endpoint, "node", Credentials(OLD.encode(), DIGEST), 10.0)


def test_a_broken_new_file_leaves_the_old_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = looked_at_each_time(write(tmp_path / "secret", "old"))
    (tmp_path / "secret").write_text("short\n")
    assert secret.current() == secret.current() == (OLD.encode(),)
    (tmp_path / "secret").unlink()
    assert secret.current() == (OLD.encode(),)
    assert caplog.text.count("stays in force") == 2
    assert "short" not in caplog.text.replace("too short", "")
    write(tmp_path / "secret", "new")
    assert secret.current() == (NEW.encode(),)


def test_files_are_looked_at_once_a_second(tmp_path: Path) -> None:
    now = [0.0]
    path = write(tmp_path / "secret", "old")
    watched = watched_files.WatchedFiles("a file", [path], path.read_text, lambda: now[0])
    path.write_text("changed")
    now[0] = 0.9
    assert watched.current().startswith(OLD)
    now[0] = 1.1
    assert watched.current() == "changed"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "holds 0 secrets"), (b"\n \n", "holds 0 secrets"), (b"a" * 15, "use at least 16"), (b"x\ny\nz", "holds 3")],
)
def test_a_file_that_holds_no_secret(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_secrets(path)
    assert str(caught.value).startswith(f"cluster.secret_file: {path}: ")


def test_no_file() -> None:
    with pytest.raises(ValueError, match=r"cluster\.secret_file: /nowhere: cannot be read: No such file"):
        SecretFile(Path("/nowhere"))
