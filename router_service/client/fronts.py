"""The Fronts that a client may call: one at a time, and the next one where a connection cannot be had."""

from collections.abc import Sequence

import grpc.aio

from router_service.client.channel import Tls, open_channel
from router_service.protocol.inference_pb2_grpc import InferenceStub


class Fronts:
    """Channels to `targets` (HOST:PORT each), of which one is in use."""

    def __init__(self, targets: Sequence[str], tls: Tls | None, attempts: int) -> None:
        """Open no connection yet.

        Raises:
            OSError, ValueError: see `open_channel`; also if there is no target.
        """
        if not targets:
            raise ValueError("targets: none given, at least one HOST:PORT is required")
        self._channels = [open_channel(target, tls, attempts) for target in targets]
        self._used = 0

    def __len__(self) -> int:
        return len(self._channels)

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel in use."""
        return self._channels[self._used]

    @property
    def inference(self) -> InferenceStub:
        """The service over the channel in use."""
        return InferenceStub(self.channel)

    def move_on(self, channel: grpc.aio.Channel) -> None:
        """Use the next target, unless another call has moved on from `channel` meanwhile."""
        if channel is self.channel:
            self._used = (self._used + 1) % len(self._channels)

    async def close(self) -> None:
        """Cancel open calls and close all connections."""
        for channel in self._channels:
            await channel.close(None)
