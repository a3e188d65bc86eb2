"""Opens a Front's connection to a router."""

import asyncio

from experts.transport.address import Endpoint
from experts.transport.frame import FrameError, Kind
from experts.transport.trust.credentials import Credentials
from router_service.front.config import FrontConfig
from router_service.front.routing.frame_stream import connect
from router_service.front.routing.router_link import RouterLink
from router_service.front.routing.silence import Silence
from router_service.protocol.messages import RouterHello, decode_to_front


async def open_link(endpoint: Endpoint, node: str, credentials: Credentials, config: FrontConfig) -> RouterLink:
    """Connect to a router and receive its hello.

    Raises:
        OSError, EOFError: the router is not there, does not know the secret, or belongs to another deployment.
        msgspec.MsgspecError: its first message cannot be decoded.
    """
    async with asyncio.timeout(config.connect_timeout_seconds):
        wire = await connect(endpoint, node, credentials, config.checksum)
        try:
            hello = decode_to_front(await wire.receive(Kind.MESSAGE))
            if not isinstance(hello, RouterHello):
                raise FrameError("hello", f"{type(hello).__name__} before the hello")
        except BaseException:
            await wire.close()
            raise
    silence = Silence(config.link_silence_seconds, config.router_wait_seconds)
    return RouterLink(endpoint, wire, hello, config.max_buffered_tokens, silence)
