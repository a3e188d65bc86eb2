"""A cluster's greedy answers against transformers': the tokens, their probabilities, the experts of each position."""

import asyncio

import torch

from router_service.client.client import Client
from router_service.protocol import inference_pb2 as pb
from tests.e2e.answers import collect, tokens_of
from tests.support import oracle

PROMPTS = oracle.prompts()
TOKENS = 64
LOGIT_TOLERANCE = 1e-4


async def ask_all(client: Client) -> list[list[pb.GenerateResponse]]:
    """The answers to all prompts, which run side by side."""
    options = {"max_tokens": TOKENS, "temperature": 0.0, "logprobs": 1, "return_routing": True}
    return await asyncio.gather(*(collect(client, tokens=prompt, **options) for prompt in PROMPTS))


def check(answers: list[list[pb.GenerateResponse]], expected: list[oracle.Reference]) -> None:
    """`expected` is what `oracle.greedy` says of `PROMPTS`."""
    for answer, reference in zip(answers, expected, strict=True):
        assert tokens_of(answer) == reference.tokens
        check_logprobs(answer, reference)
        check_routing(answer, reference)


def check_logprobs(answer: list[pb.GenerateResponse], reference: oracle.Reference) -> None:
    """A drawn token's probability rests on every logit of its position."""
    ours_G = torch.tensor([drawn.logprob for response in answer for drawn in response.logprobs])
    theirs_G = reference.logits_GV.log_softmax(-1).gather(1, torch.tensor(reference.tokens)[:, None]).squeeze(1)
    largest = reference.logits_GV.abs().max()
    assert (ours_G - theirs_G).abs().max() / largest < LOGIT_TOLERANCE


def check_routing(answer: list[pb.GenerateResponse], reference: oracle.Reference) -> None:
    positions = [routing.layers for response in answer for routing in response.routing]
    assert len(positions) == len(reference.prompt) + TOKENS - 1
    for number in range(len(reference.chosen)):
        assert [list(layers[number].experts) for layers in positions] == reference.experts(number)
