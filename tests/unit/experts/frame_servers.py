"""Servers of a shard as tests need them: in this process, with the tests' credentials."""

import json
from typing import Any

from experts.shard.server import ExpertServer
from experts.transport.channel import Channel
from experts.transport.frame import Header, Kind
from experts.transport.listener import FrameServer
from tests.support.mesh import CREDENTIALS, NODE


def frame_server(handler: Any, **options: Any) -> FrameServer:
    """A server of the shard 0 that hands its frames to `handler`; `options` change what a server is made of."""
    usual = {"role": "shard", "index": 0, "replica": "r0", "node": NODE, "host": "127.0.0.1"}
    return FrameServer(**usual | {"credentials": CREDENTIALS, "checksum": False, "handler": handler} | options)


def expert_server(shard: Any, **options: Any) -> ExpertServer:
    """A shard's server of its own, for what stands in for its experts; `options` change what it is made of."""
    usual = {"credentials": CREDENTIALS, "host": "127.0.0.1", "node": NODE, "replica": "r0"}
    return ExpertServer(shard, **usual | options)


class Echo:
    """A handler that sends back what it gets."""

    def opened(self, channel: Channel) -> None: ...
    def closed(self, channel: Channel) -> None: ...

    def frame(self, channel: Channel, header: Header, payload: memoryview) -> None:
        channel.send(header.kind, header.sequence, [bytes(payload)])


def echo(peer: Channel) -> None:
    """Ask an `Echo`."""
    peer.send(Kind.STATUS, 1, [b"still here"])
    assert bytes(peer.receive()[1]) == b"still here"


def status_of(control: Channel) -> dict[str, Any]:
    """What the shard at the other end says of itself; beats that come before are dropped."""
    control.send(Kind.STATUS, 3, [])
    header, payload = control.receive()
    while header.kind is Kind.BEAT:
        header, payload = control.receive()
    assert (header.kind, header.sequence) == (Kind.STATUS, 3)
    status: dict[str, Any] = json.loads(bytes(payload))
    return status
