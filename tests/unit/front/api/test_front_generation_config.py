"""What a checkpoint's generation_config.json sets, seen at a Front."""

import logging
from pathlib import Path

import pytest

from router_service.protocol import inference_pb2 as pb
from router_service.text.text_model import load_text_model
from tests.unit.front.calls import collect, text_of
from tests.unit.front.front_fakes import write_checkpoint
from tests.unit.front.front_world import World


async def test_an_answer_ends_at_the_checkpoints_stop_string(world: World, tmp_path: Path) -> None:
    await world.router()
    client = await world.front(load_text_model(write_checkpoint(tmp_path, {"stop_strings": [" wor", "<|im_start|>"]})))
    await client.wait_ready(10)
    responses = await collect(client, "hello world", max_tokens=40)
    assert (text_of(responses), responses[-1].finish_reason) == ("hello", pb.STOP)
    assert text_of(await collect(client, "hello world", max_tokens=40, stop=["d"])) == "hello worl"


async def test_a_front_names_them_at_its_start(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "router_service.text.ignored_settings"):
        await world.front(load_text_model(write_checkpoint(tmp_path, {"num_beams": 4, "top_k": -1})))
    lines = [record for record in caplog.records if record.name.endswith("ignored_settings")]
    assert [(line.message, vars(line)["settings"]) for line in lines] == [
        ("settings of generation_config.json are ignored", "num_beams=4")
    ]
