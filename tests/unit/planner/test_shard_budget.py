"""What a running shard may hold."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.planner.memory_plan import while_loading
from cluster.planner.shard_budget import RESERVE_BYTES, copies_in, shard_budget

some_bytes = st.integers(0, 1 << 40)


@given(some_bytes, some_bytes, st.integers(1, 40))
def test_all_that_share_a_memory_fit_in_it(held: int, available: int, sharing: int) -> None:
    """If each takes all that it may, and the reserve stays."""
    more = shard_budget(held, available, sharing) - held
    assert more >= 0
    assert sharing * while_loading(more) <= max(0, available - RESERVE_BYTES) + sharing


def test_nothing_is_taken_away_where_memory_is_short() -> None:
    assert shard_budget(5000, 0) == shard_budget(5000, RESERVE_BYTES, 3) == 5000


@given(some_bytes, st.integers(1, 1 << 30), st.integers(0, 1 << 30))
def test_copies(budget: int, expert_bytes: int, scratch: int) -> None:
    copies = copies_in(budget, expert_bytes, scratch)
    assert copies * expert_bytes + scratch <= max(budget, scratch)
    assert (copies + 1) * expert_bytes + scratch > budget


def test_a_model_without_weights_has_no_copies() -> None:
    assert copies_in(100, 0, 0) == 0
