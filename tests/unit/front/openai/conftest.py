from collections.abc import AsyncIterator

import pytest

from tests.unit.front.front_world import World
from tests.unit.front.openai.caller import Caller, call


@pytest.fixture
async def caller(world: World) -> AsyncIterator[Caller]:
    """A program that calls a Front whose router answers with the prompt."""
    _, caller = await call(world)
    async with caller:
        yield caller
