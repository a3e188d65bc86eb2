"""A router whose steps would not fit into a call to a shard does not start."""

from collections.abc import Callable

import pytest

from tests.support.mesh import Mesh
from tests.support.tiny import Tiny


def test_a_token_budget_over_a_frame_is_refused_by_name(tiny: Callable[..., Tiny]) -> None:
    with pytest.raises(ValueError, match=r"router\.token_budget allows steps of 100000000 tokens.* at most \d+"):
        Mesh(tiny("qwen3_moe").plan, 2, token_budget=100_000_000)
