"""Families through the whole cluster: transformers' tokens, logits and experts.

Two of them; with EXPERTMESH_ALL_SHARDS=1 (`make parity`) every family over 1, 2 and 3 shards, which takes minutes of
starting processes. In one process tests/unit/models/test_parity.py has every family.
"""

import asyncio
import os
from functools import cache
from pathlib import Path

import pytest
import torch

from router_service.client.client import Client
from router_service.protocol import inference_pb2 as pb
from tests.e2e.answers import collect, tokens_of
from tests.e2e.server import serving
from tests.e2e.shared_ray import SharedRay
from tests.support import oracle
from tests.support.tiny import FAMILIES, write_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.e2e]

PROMPTS = oracle.prompts()
TOKENS = 64
LOGIT_TOLERANCE = 1e-4

ALL = [(family, shards) for family in FAMILIES for shards in (1, 2, 3)]
# Plain experts, and the one with most of its own: groups, shared experts, latent attention.
SOME = [("mixtral", 2), ("deepseek_v3", 3)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory):
    """`checkpoint(family)`: a directory and what transformers answers, made once."""

    @cache
    def make(family: str) -> tuple[Path, list[oracle.Reference]]:
        path = tmp_path_factory.mktemp(family)
        return path, oracle.greedy(write_checkpoint(path, family), PROMPTS, TOKENS)

    return make


@pytest.mark.parametrize(("family", "shards"), ALL if os.environ.get("EXPERTMESH_ALL_SHARDS") else SOME)
async def test_a_family_over_shards(
    shared_ray: SharedRay, checkpoint, family: str, shards: int, tmp_path: Path
) -> None:
    path, expected = checkpoint(family)
    where = shared_ray.joined_as(f"{family}-{shards}")
    with serving(str(path), *where, "--shards", str(shards), log=tmp_path / "log") as server:
        async with Client(server.target) as client:
            options = {"max_tokens": TOKENS, "temperature": 0.0, "logprobs": 1, "return_routing": True}
            answers = await asyncio.gather(*(collect(client, tokens=p, **options) for p in PROMPTS))
            state = await client.cluster()
        assert len(state.shards) == shards
        assert server.stop() == 0
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
