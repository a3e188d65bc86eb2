"""A frame server of a shard as tests need it: in this process, with the tests' credentials."""

from typing import Any

from experts.transport.listener import FrameServer
from tests.support.mesh import CREDENTIALS, NODE


def frame_server(handler: Any, **options: Any) -> FrameServer:
    """A server of the shard 0 that hands its frames to `handler`; `options` change what a server is made of."""
    usual = {"role": "shard", "index": 0, "replica": "r0", "node": NODE, "host": "127.0.0.1"}
    return FrameServer(**usual | {"credentials": CREDENTIALS, "checksum": False, "handler": handler} | options)
