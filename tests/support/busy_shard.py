"""A shard that is busy with another router's call until the test lets it go."""

import threading
from typing import Self

import torch

from experts.shard.server import ExpertServer
from experts.transport.call import ExpertCall, pack_call
from experts.transport.channel import connect
from experts.transport.frame import Kind
from tests.support.mesh import CREDENTIALS, NODE, WAIT_S


class BusyShard:
    """A context manager: at its end the other router's call is answered with zeros at once."""

    def __init__(self, server: ExpertServer) -> None:
        self._shard, self._work = server.shard, server.shard.compute
        self._free, self._entered = threading.Event(), threading.Event()
        self._channel = connect(server.endpoint, NODE, CREDENTIALS, WAIT_S)
        self._call = self._shard.sample_call(1)

    def _hold(self, call: ExpertCall) -> torch.Tensor:
        self._shard.compute = self._work  # type: ignore[method-assign]  # the next calls are computed as ever
        self._entered.set()
        assert self._free.wait(2 * WAIT_S), "the test never lets go"
        return torch.zeros(call.x_RD.shape)

    def __enter__(self) -> Self:
        self._shard.compute = self._hold  # type: ignore[method-assign]
        self._channel.send(Kind.EXPERTS, 1, pack_call(self._call))
        assert self._entered.wait(WAIT_S), "the other call is not computed"
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the other router's call end."""
        self._free.set()
        assert self._channel.receive()[0].kind is Kind.PARTIALS
        self._channel.close()
