"""A pipe, a socket, a device or a directory under the name of a checkpoint's file: refused at once, by its name."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.config import ModelConfig
from cluster.planner.model import open_model
from experts.checkpoint.directory import INDEX
from experts.checkpoint.errors import CheckpointError
from experts.checkpoint.files import open_file
from experts.checkpoint.safetensors_file import MappedFile
from experts.config import WeightsConfig
from router_service.text.text_model import load_text_model
from tests.support.tiny import Tiny
from tests.unit.front.front_fakes import byte_level_tokenizer

# Of what takes milliseconds; only a call that waits for ever reaches it.
LIMIT_S = 60.0
FILES = (
    "config.json", "hf_quant_config.json", "model.safetensors", INDEX, "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "generation_config.json", "chat_template.jinja", "chat_template.json", "tiktoken.model",
)  # fmt: skip


def make_socket(path: Path) -> None:
    # By a short name: a socket's may have 107 bytes.
    here = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


KINDS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a directory": lambda path: path.mkdir(),
}


@pytest.fixture
def directory(tiny: Callable[..., Tiny], tmp_path: Path) -> Path:
    for file in tiny("mixtral").path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    byte_level_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def said_of(work: Callable[[], object]) -> str:
    """What the CheckpointError says that `work` ends with."""
    said: list[BaseException | None] = []

    def run() -> None:
        try:
            work()
            said.append(None)
        except BaseException as error:
            said.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    assert said, "it waits for ever"
    assert isinstance(said[0], CheckpointError), said[0]
    return str(said[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_it_is_refused_under_any_name(directory: Path, name: str, kind: str) -> None:
    path = directory / name
    path.unlink(missing_ok=True)
    if name == "tiktoken.model":
        (directory / "tokenizer.json").unlink()
        (directory / "config.json").write_text((directory / "config.json").read_text().replace("mixtral", "kimi_k2"))
    KINDS[kind](path)

    def work() -> None:
        if name != "tiktoken.model":
            open_model(ModelConfig(checkpoint=str(directory)), WeightsConfig(), verify=True)
        load_text_model(directory)

    assert said_of(work) == f"{path}: no ordinary file: it is {kind}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_an_index_names_is_looked_at(directory: Path, kind: str) -> None:
    KINDS[kind](directory / "part.safetensors")
    (directory / INDEX).write_text('{"weight_map": {"a": "part.safetensors"}}')
    assert "part.safetensors" in said_of(lambda: open_model(ModelConfig(checkpoint=str(directory)), WeightsConfig()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_took_the_files_place_since_is_not_mapped(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    KINDS[kind](path)
    assert said_of(lambda: MappedFile(path)) == f"{path}: no ordinary file: it is {kind}"


def test_what_takes_the_files_place_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    path.write_text("{}")
    ordinary = path.stat()
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: ordinary)
    assert said_of(lambda: open_file(path)) == f"{path}: no ordinary file: it is a pipe"
