"""Every family through the whole cluster: transformers' tokens, logits and experts.

Each over one number of shards; with EXPERTMESH_ALL_SHARDS=1 (`make parity`) each over 1, 2 and 3, which takes minutes
of starting processes. The clusters join one Ray, so that each costs its own processes' start and no more.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from router_service.client.client import Client
from router_service.protocol import inference_pb2 as pb
from tests import oracle
from tests.e2e.server import descendants_of, environment, gone, serving
from tests.e2e.test_cluster import collect, tokens_of
from tests.tiny import FAMILIES, write_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.e2e]

PROMPTS = oracle.prompts()
TOKENS = 64
WAIT_SECONDS = 60
LOGIT_TOLERANCE = 1e-4
# One node with room for a few clusters' processes.
RAY = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 8, "include_dashboard": False})
print(json.dumps(cluster.address), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


ALL = [(family, shards) for family in FAMILIES for shards in (1, 2, 3)]
SOME = [(family, 1 + number % 3) for number, family in enumerate(FAMILIES)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a Ray of one node, which goes down with the module."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-c", RAY]
    process = subprocess.Popen(command, text=True, start_new_session=True, env=environment(), **pipes)
    assert process.stdin is not None
    assert process.stdout is not None
    yield json.loads(next(line for line in process.stdout if line.startswith('"')))
    family = descendants_of(process.pid)
    process.stdin.close()
    process.wait(WAIT_SECONDS)
    process.stdout.close()
    assert not gone(family)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory):
    """`checkpoint(family)`: a directory and what transformers answers, made once."""

    @cache
    def make(family: str) -> tuple[Path, list[oracle.Reference]]:
        path = tmp_path_factory.mktemp(family)
        return path, oracle.greedy(write_checkpoint(path, family), PROMPTS, TOKENS)

    return make


@pytest.mark.parametrize(("family", "shards"), ALL if os.environ.get("EXPERTMESH_ALL_SHARDS") else SOME)
async def test_a_family_over_shards(address: str, checkpoint, family: str, shards: int, tmp_path: Path) -> None:
    path, expected = checkpoint(family)
    where = ("--address", address, "--name", f"{family}-{shards}", "--shards", str(shards))
    with serving(str(path), *where, log=tmp_path / "log") as server:
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
