"""/tokenize, /detokenize, /tokenizer_info, /v1/models and the open pages."""

from importlib.metadata import version
from typing import Any

import pytest

from router_service.front.openai.errors import ModelNotFoundError
from router_service.front.openai.served_model import ServedModel
from tests.unit.front.front_fakes import TEMPLATE, byte_level_tokenizer
from tests.unit.front.front_world import World
from tests.unit.front.openai.caller import Caller, call

HELLO = [{"role": "user", "content": "hello"}]


async def test_a_prompt_there_and_back(caller: Caller) -> None:
    ids = byte_level_tokenizer().encode("hello world<|im_end|>").ids
    reply = await caller.post("/tokenize", prompt="hello world<|im_end|>")
    assert reply == {"count": len(ids), "max_model_len": 4096, "tokens": ids, "token_strs": None}
    told = await caller.post("/tokenize", prompt="hello world<|im_end|>", return_token_strs=True)
    assert "".join(told["token_strs"]) == "hello world<|im_end|>"
    assert await caller.post("/detokenize", tokens=ids) == {"prompt": "hello world<|im_end|>"}
    assert await caller.post("/detokenize", tokens=ids, skip_special_tokens=True) == {"prompt": "hello world"}


async def test_a_chat_has_the_ids_of_a_generation(world: World) -> None:
    router, caller = await call(world)
    async with caller:
        reply = await caller.post("/tokenize", messages=HELLO)
        await caller.chat(max_tokens=1)
        assert reply["tokens"] == router.submits[0].prompt
        shorter = await caller.post("/tokenize", messages=HELLO, add_generation_prompt=False)
        assert shorter["count"] < reply["count"]
        plain = await caller.post("/tokenize", prompt="<|im_end|>", allow_special_tokens=False)
        assert plain["count"] > 1


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": HELLO, "chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [512]}, "tokens[0]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ],
)
async def test_bad_bodies(caller: Caller, path: str, body: dict[str, Any], param: str) -> None:
    status, error = await caller.refused(path, **body)
    assert (status, error["param"]) == (400, param), error


async def test_what_an_evaluation_asks_of_the_tokenizer(caller: Caller) -> None:
    info = await caller.get("/tokenizer_info")
    assert info == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
    }


async def test_models(caller: Caller) -> None:
    (model,) = (await caller.get("/v1/models"))["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", 4096)
    assert await caller.get("/v1/models/tiny") == model


async def test_health_and_version(world: World) -> None:
    client = await world.front(http_port=0)
    async with Caller(world.server.http_port) as caller:
        async with caller.session.get("/health") as response:
            assert (response.status, (await response.json())["routers"]) == (503, 0)
        await world.router()
        await client.wait_ready(10)
        for path in ("/health", "/ping"):
            assert await caller.get(path) == {"status": "serving", "routers": 1}
        async with caller.session.post("/ping") as response:
            assert response.status == 200
        async with caller.session.head("/health") as response:
            assert response.status == 200
        assert await caller.get("/version") == {"version": version("expertmesh")}


def test_a_models_name_may_leave_out_its_organization() -> None:
    model = ServedModel("org/model")
    for name in ("org/model", "model", "", None):
        model.check(name)
    for name in ("org", "other/model", "MODEL"):
        with pytest.raises(ModelNotFoundError, match="send 'org/model'"):
            model.check(name)
