from collections.abc import AsyncIterator, Callable

import pytest

from router_service.front.text.text_model import TextModel, load_text_model
from tests.support.tiny import Tiny
from tests.unit.front.front_fakes import write_checkpoint
from tests.unit.front.front_world import World
from tests.unit.router.service import Service


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return load_text_model(write_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture
async def world(text: TextModel) -> AsyncIterator[World]:
    world = World(text)
    yield world
    await world.close()


@pytest.fixture
async def service(tiny: Callable[..., Tiny], world: World) -> AsyncIterator[Service]:
    service = Service(tiny("qwen3_moe"), world)
    yield service
    await service.close()
