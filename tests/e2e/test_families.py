"""Families through the whole cluster: transformers' tokens, logits and experts.

One of them, as test_cluster.py has two more; with EXPERTMESH_ALL_SHARDS=1 (`make parity`) every family over 1, 2 and 3
shards, which takes minutes of starting processes. In one process tests/unit/models/test_parity.py has every family.
"""

import os
from functools import cache
from pathlib import Path

import pytest

from router_service.client.client import Client
from tests.e2e.parity import PROMPTS, TOKENS, ask_all, check
from tests.e2e.server import serving
from tests.e2e.shared_ray import SharedRay
from tests.support import oracle
from tests.support.tiny import FAMILIES, write_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.e2e]

ALL = [(family, shards) for family in FAMILIES for shards in (1, 2, 3)]
# The one with most of its own: groups, shared experts, latent attention. test_cluster.py has those with plain experts.
SOME = [("deepseek_v3", 3)]


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
            answers = await ask_all(client)
            state = await client.cluster()
        assert len(state.shards) == shards
        assert server.stop() == 0
    check(answers, expected)
