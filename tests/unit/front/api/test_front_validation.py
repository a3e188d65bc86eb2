"""What a request may ask for, what it gets when it asks for nothing, and what it hears when it asks wrongly."""

import json
from pathlib import Path

import grpc
import pytest

from experts.checkpoint.errors import CheckpointError
from router_service.front.api.sampling import resolve_sampling, special_stop_ids
from router_service.front.errors import RequestError
from router_service.front.routing.length_limits import LengthLimits
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceStub
from router_service.protocol.messages import SamplingParams
from router_service.text.generation_config import SamplingDefaults
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.text_model import load_text_model
from tests.unit.front.calls import collect
from tests.unit.front.front_fakes import VOCABULARY, byte_level_tokenizer, card, write_checkpoint
from tests.unit.front.front_world import World

LIMITS = LengthLimits(context=100, prompt=80, vocabulary=VOCABULARY)


def resolve(defaults: SamplingDefaults | None = None, prompt_tokens: int = 10, **fields: object) -> SamplingParams:
    return resolve_sampling(pb.Sampling(**fields), defaults or SamplingDefaults(), LIMITS, prompt_tokens)  # type: ignore[arg-type]


def test_nothing_set_means_temperature_1_and_all_that_is_left() -> None:
    params = resolve(seed=5)
    assert params == SamplingParams(max_tokens=90, temperature=1.0, seed=5)


def test_an_unset_seed_is_drawn_from_63_bits() -> None:
    seeds = {resolve().seed for _ in range(50)}
    assert len(seeds) == 50
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_what_is_set_counts() -> None:
    params = resolve(
        max_tokens=7,
        temperature=0.5,
        top_p=0.25,
        min_p=0.125,
        repetition_penalty=1.5,
        frequency_penalty=-2.0,
        presence_penalty=2.0,
        top_k=3,
        seed=(1 << 64) - 1,
        stop_token_ids=[4, 5, 4],
        logprobs=0,
        min_tokens=7,
        logit_bias={3: -100.0, VOCABULARY - 1: 100.0},
        prompt_logprobs=20,
    )
    assert params == SamplingParams(
        *(7, 0.5, 3, 0.25, 0.125, 1.5, -2.0, 2.0, (1 << 64) - 1, (4, 5), False, 0),
        min_tokens=7,
        logit_bias={3: -100.0, VOCABULARY - 1: 100.0},
        prompt_logprobs=20,
    )


def test_a_stop_string_that_is_a_special_token_is_a_stop_token() -> None:
    tokenizer = JsonTokenizer(byte_level_tokenizer())
    stops = ["<|im_end|>", "hello", "<|endoftext|>", "<|im_end|> "]
    assert special_stop_ids(stops, tokenizer) == {2: "<|im_end|>", 0: "<|endoftext|>"}
    params = resolve_sampling(pb.Sampling(stop_token_ids=[9]), SamplingDefaults(eos_token_ids=(2,)), LIMITS, 1, [2, 0])
    assert params.stop_token_ids == (9, 2, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"max_tokens": 0},
            "sampling.max_tokens: must be 1 to 90, what a prompt of 10 tokens leaves of the context of 100",
        ),
        ({"max_tokens": 91}, "sampling.max_tokens: must be 1 to 90"),
        ({"temperature": -0.5}, "sampling.temperature: must be at least 0 and finite, got -0.5"),
        ({"temperature": float("nan")}, "sampling.temperature: must be at least 0"),
        ({"temperature": float("inf")}, "sampling.temperature: must be at least 0 and finite"),
        ({"top_p": 2.0}, "sampling.top_p: must be over 0 and at most 1, got 2"),
        ({"top_p": 0.0}, "sampling.top_p: must be over 0"),
        ({"min_p": 1.5}, "sampling.min_p: must be at least 0 and at most 1"),
        ({"repetition_penalty": 0.0}, "sampling.repetition_penalty: must be at least 1e-06 and at most 1e+30, got 0"),
        ({"repetition_penalty": 1e-45}, "sampling.repetition_penalty: must be at least 1e-06"),
        ({"repetition_penalty": 3e38}, "sampling.repetition_penalty: must be at least 1e-06 and at most 1e+30"),
        ({"frequency_penalty": 2.5}, "sampling.frequency_penalty: must be at least -2 and at most 2"),
        ({"presence_penalty": -2.5}, "sampling.presence_penalty: must be at least -2 and at most 2"),
        ({"top_k": -2}, "sampling.top_k: must be -1 to 2147483647, got -2"),
        ({"logprobs": 21}, "sampling.logprobs: must be 0 to 20, got 21"),
        ({"stop": ["a", ""]}, "sampling.stop[1]: must have 1 to 256 characters, has 0"),
        ({"stop": ["a" * 257]}, "sampling.stop[0]: must have 1 to 256 characters, has 257"),
        ({"stop": ["a"] * 17}, "sampling.stop: at most 16 stop strings, got 17"),
        (
            {"stop_token_ids": [1, VOCABULARY]},
            "sampling.stop_token_ids[1]: token 512 is not in the vocabulary, 0 to 511",
        ),
        ({"stop_token_ids": [1] * 65}, "sampling.stop_token_ids: at most 64"),
        (
            {"min_tokens": 8, "max_tokens": 7},
            "sampling.min_tokens: must be 0 to 7, the answer's max_tokens, got 8: lower it or raise max_tokens",
        ),
        ({"min_tokens": 91}, "sampling.min_tokens: must be 0 to 90"),
        ({"logit_bias": {5: 100.5}}, "sampling.logit_bias[5]: must be at least -100 and at most 100, got 100.5"),
        ({"logit_bias": {5: float("nan")}}, "sampling.logit_bias[5]: must be at least -100 and at most 100, got nan"),
        (
            {"logit_bias": {VOCABULARY: 1.0}},
            "sampling.logit_bias[512]: token 512 is not in the vocabulary, 0 to 511",
        ),
        ({"logit_bias": dict.fromkeys(range(301), 1.0)}, "sampling.logit_bias: at most 300 tokens, got 301"),
        ({"prompt_logprobs": 21}, "sampling.prompt_logprobs: must be 0 to 20, got 21"),
    ],
)
def test_a_field_out_of_bounds_is_named_with_its_bounds(fields: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolve(**fields)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("request_fields", "message"),
    [
        ({}, "input: must not be empty"),
        ({"prompt": ""}, "prompt: must not be empty"),
        ({"tokens": pb.TokenIds()}, "tokens: must not be empty"),
        ({"tokens": pb.TokenIds(ids=[3, 600])}, "tokens.ids[1]: token 600 is not in the vocabulary, 0 to 511"),
        (
            {"tokens": pb.TokenIds(ids=[3] * 100)},
            "tokens: has 100 tokens, at most 80 are allowed (the context",
        ),
        ({"tokens": pb.TokenIds(ids=[3] * 81)}, "tokens: has 81 tokens, at most 80"),
        ({"prompt": "hello " * 4000}, "prompt: has "),
        ({"chat": pb.Chat()}, "chat.messages: at least one"),
        (
            {"chat": pb.Chat(messages=[pb.Message(role="user"), pb.Message(role="robot")])},
            "chat.messages[1].role: must be one of system, developer, user, assistant, tool, got 'robot'",
        ),
        ({"prompt": "a", "request_id": "x" * 257}, "request_id: at most 256 characters"),
        ({"prompt": "a", "sampling": pb.Sampling(top_p=2)}, "sampling.top_p: must be over 0 and at most 1, got 2"),
    ],
)
async def test_an_input_that_cannot_be_served_is_refused(
    world: World, request_fields: dict[str, object], message: str
) -> None:
    router = await world.router(context=100)
    router.prompt_limit = 80
    client = await world.front()
    await client.wait_ready(10)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        call = InferenceStub(channel).Generate(pb.GenerateRequest(**request_fields))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith(message)
    assert router.submits == []


async def test_generation_config_fills_what_is_unset(world: World, tmp_path: Path) -> None:
    config = {
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": None,
        "repetition_penalty": 1.05,
        "max_new_tokens": 12,
        "eos_token_id": [2, 0],
    }
    text = load_text_model(write_checkpoint(tmp_path, config))
    router = await world.router()
    client = await world.front(text)
    await client.wait_ready(10)
    await collect(client, tokens=[9], seed=1)
    await collect(client, tokens=[9], seed=1, temperature=0.0, top_k=0, top_p=1.0, max_tokens=3, ignore_eos=True)
    assert router.submits[0].sampling == SamplingParams(12, 0.6, 20, 0.95, 0.0, 1.05, seed=1, stop_token_ids=(2, 0))
    assert router.submits[1].sampling == SamplingParams(3, 0.0, 0, 1.0, 0.0, 1.05, seed=1, ignore_eos=True)
    assert list((await client.model()).eos_token_ids) == [2, 0]


@pytest.mark.parametrize(
    ("config", "temperature"),
    [({"do_sample": False, "temperature": 0.6}, 0.0), ({"temperature": 0.6}, 0.6), ({}, 1.0), (None, 1.0)],
)
def test_do_sample_false_is_greedy(tmp_path: Path, config: dict[str, object] | None, temperature: float) -> None:
    defaults = load_text_model(write_checkpoint(tmp_path, config)).defaults
    assert resolve(defaults).temperature == temperature
    assert resolve(defaults, temperature=0.75).temperature == 0.75


def test_a_default_of_max_tokens_gives_way_to_the_context() -> None:
    assert resolve(SamplingDefaults(max_tokens=500)).max_tokens == 90


def test_end_tokens_come_from_config_and_tokenizer_where_generation_config_has_none(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {"eos_token_id": None})
    assert load_text_model(tmp_path).defaults.eos_token_ids == (2,)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert load_text_model(tmp_path).defaults.eos_token_ids == (7, 2)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 2.5}, "top_k"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"eos_token_id": ["</s>"]}, "eos_token_id"),
    ],
)
def test_a_wrong_generation_config_names_file_and_key(tmp_path: Path, config: dict[str, object], key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {key} is .*, it must be "):
        load_text_model(write_checkpoint(tmp_path, config))


def test_a_missing_or_broken_tokenizer_is_named(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: "):
        load_text_model(checkpoint)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no such file"):
        load_text_model(checkpoint)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_broken_json_file_is_named(checkpoint: Path, file: str, content: bytes) -> None:
    (checkpoint / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        load_text_model(checkpoint)


async def test_get_model_describes_it(world: World) -> None:
    _, client = await world.serve()
    model = await client.model()
    expected = card()
    assert (model.name, model.family, model.dtype) == (expected.name, expected.family, expected.dtype)
    assert (model.context, model.prompt_limit, model.vocabulary) == (4096, 4095, VOCABULARY)
    assert (model.layers, model.moe_layers, model.experts, model.experts_per_token) == (4, 4, 8, 2)
    assert (model.total_parameters, model.active_parameters, model.has_chat_template) == (1000, 400, True)


async def test_tokenize_and_detokenize(world: World) -> None:
    client = await world.front()
    text = "hello \U0001f600 world<|im_end|>"
    ids = await client.tokenize(text)
    assert ids[-1] == 2
    assert await client.detokenize(ids) == "hello \U0001f600 world"
    assert await client.detokenize(ids, skip_special_tokens=False) == text
    assert await client.detokenize([]) == ""
    assert await client.tokenize("") == []
    with pytest.raises(grpc.aio.AioRpcError, match=r"ids\[1\]: token 512 is not in the vocabulary"):
        await client.detokenize([1, 512])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="input: one of prompt, chat"):
            await InferenceStub(channel).Tokenize(pb.TokenizeRequest())
    for wrong in ({}, {"prompt": "a", "messages": []}):
        with pytest.raises(ValueError, match="exactly one"):
            await client.tokenize(**wrong)  # type: ignore[arg-type]
