"""A frame server of a shard as tests need it: in this process, with the tests' credentials."""

import json
from typing import Any

from experts.transport.channel import Channel
from experts.transport.frame import Kind
from experts.transport.listener import FrameServer
from tests.support.mesh import CREDENTIALS, NODE


def frame_server(handler: Any, **options: Any) -> FrameServer:
    """A server of the shard 0 that hands its frames to `handler`; `options` change what a server is made of."""
    usual = {"role": "shard", "index": 0, "replica": "r0", "node": NODE, "host": "127.0.0.1"}
    return FrameServer(**usual | {"credentials": CREDENTIALS, "checksum": False, "handler": handler} | options)


def status_of(control: Channel) -> dict[str, Any]:
    """What the shard at the other end says of itself; beats that come before are dropped."""
    control.send(Kind.STATUS, 3, [])
    header, payload = control.receive()
    while header.kind is Kind.BEAT:
        header, payload = control.receive()
    assert (header.kind, header.sequence) == (Kind.STATUS, 3)
    status: dict[str, Any] = json.loads(bytes(payload))
    return status
