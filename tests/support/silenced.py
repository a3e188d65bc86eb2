"""A shard that ends at a certain moment of a step, having answered nothing since another."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from tests.support.mesh import Mesh


def before_call(monkeypatch: pytest.MonkeyPatch, mesh: Mesh, name: str, number: int, act: Callable[[], None]) -> None:
    """Do something before the pool's `dispatch` or `combine` number `number` from now, counted over all batches."""
    method, numbers = getattr(mesh.engine.pool, name), count()

    def watched(*args: Any) -> Any:
        if next(numbers) == number:
            act()
        return method(*args)

    monkeypatch.setattr(mesh.engine.pool, name, watched)


def kill_silent(mesh: Mesh, shard: int) -> Callable[[], None]:
    """The end of a shard that has answered nothing since its turn was taken, which happens here."""
    turn = mesh.servers.running[shard].turn
    turn.acquire()

    def kill() -> None:
        mesh.servers.stop(shard)
        turn.release()

    return kill
