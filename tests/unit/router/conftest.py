from collections.abc import AsyncIterator, Callable

import pytest

from tests.support.tiny import Tiny
from tests.unit.front.conftest import text, world
from tests.unit.front.front_world import World
from tests.unit.router.service import Service

__all__ = ["text", "world"]  # the Front's fixtures serve a router's tests too


@pytest.fixture
async def service(tiny: Callable[..., Tiny], world: World) -> AsyncIterator[Service]:
    service = Service(tiny("qwen3_moe"), world)
    yield service
    await service.close()
