from pathlib import Path

import pytest

from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.text_model import TextModel, load_text_model
from router_service.text.tokenizer import Tokenizer
from tests.unit.front.front_fakes import byte_level_tokenizer, write_checkpoint


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return JsonTokenizer(byte_level_tokenizer())


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return load_text_model(write_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path)
