"""What a caller sends to the Front: bytes of a gRPC request, up to what goes to a router."""

import asyncio
from functools import cache

from google.protobuf.message import DecodeError

from router_service.front.api.prompts.prompt import encode_input
from router_service.front.api.sampling import resolve_sampling, special_stop_ids
from router_service.front.api.scheduling import check_scheduling, salt_of
from router_service.front.errors import RequestError
from router_service.front.routing.length_limits import LengthLimits
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Submit, decode_to_router, encode
from router_service.text.generation_config import SamplingDefaults
from router_service.text.json_tokenizer import JsonTokenizer
from router_service.text.text_model import TextModel
from tests.fuzz.target import Target
from tests.unit.front.front_fakes import VOCABULARY, byte_level_tokenizer

LIMITS = LengthLimits(context=4096, prompt=4000, vocabulary=VOCABULARY)


def read_request(data: bytes) -> None:
    """As `Answering` does: what is accepted keeps to every bound and can be sent to a router."""
    request = pb.GenerateRequest.FromString(data)
    text, loop = _text()
    check_scheduling(request)
    prompt = loop.run_until_complete(encode_input(request, text, LIMITS)).ids
    stops = special_stop_ids(request.sampling.stop, text.tokenizer)
    sampling = resolve_sampling(request.sampling, text.defaults, LIMITS, len(prompt), stops)
    assert 0 < sampling.max_tokens <= LIMITS.context - len(prompt)
    assert all(0 <= token < VOCABULARY for token in (*prompt, *sampling.logit_bias, *sampling.stop_token_ids))
    assert sampling.temperature >= 0
    assert 0 < sampling.top_p <= 1
    salt = salt_of("caller", request.cache_salt)
    submit = Submit(1, request.request_id, prompt, sampling, priority=request.priority, cache_salt=salt)
    assert decode_to_router(encode(submit)) == submit


@cache
def _text() -> tuple[TextModel, asyncio.AbstractEventLoop]:
    """Without a chat template: that renders in a process of its own, which has its own tests."""
    model = TextModel(JsonTokenizer(byte_level_tokenizer()), None, SamplingDefaults(eos_token_ids=(0,)))
    return model, asyncio.new_event_loop()


def _requests() -> tuple[bytes, ...]:
    sampling = pb.Sampling(
        max_tokens=8, temperature=0.5, top_k=5, top_p=0.9, min_p=0.1, seed=7, stop=["END", "<|im_end|>"],
        stop_token_ids=[3], logprobs=2, logit_bias={5: 1.5}, repetition_penalty=1.1, min_tokens=1,
    )  # fmt: skip
    full = pb.GenerateRequest(prompt="hello world", sampling=sampling, request_id="id", priority=1, cache_salt="salt")
    tokens = pb.GenerateRequest(tokens=pb.TokenIds(ids=[1, 2, 300]), sampling=pb.Sampling(max_tokens=1))
    chat = pb.GenerateRequest(chat=pb.Chat(messages=[pb.Message(role="user", content="hello")]))
    return tuple(request.SerializeToString() for request in (full, tokens, chat))


TARGETS = (Target("request", _requests(), read_request, (DecodeError, RequestError), 3),)
