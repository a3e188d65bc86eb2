import io
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from experts.host import watched_files
from experts.host.log import PACKAGES, LoggingConfig, log_handler
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.text_model import TextModel, load_text_model
from router_service.text.tokenizer import Tokenizer
from tests.unit.front.front_fakes import byte_level_tokenizer, write_checkpoint
from tests.unit.front.front_world import World
from tests.unit.front.pki import Pki


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return JsonTokenizer(byte_level_tokenizer())


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return load_text_model(write_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture
async def world(text: TextModel) -> AsyncIterator[World]:
    world = World(text)
    yield world
    await world.close()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path)


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """All that a Front's process would write at the debug level."""
    stream = io.StringIO()
    handler = log_handler(LoggingConfig(format="json"), "front", "f0", stream)
    levels = {package: logging.getLogger(package).level for package in PACKAGES}
    logging.getLogger().addHandler(handler)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG)
    yield stream
    logging.getLogger().removeHandler(handler)
    for package, level in levels.items():
        logging.getLogger(package).setLevel(level)


@pytest.fixture
def pki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pki:
    monkeypatch.setattr(watched_files, "CHECK_SECONDS", 0.0)
    return Pki(tmp_path)
