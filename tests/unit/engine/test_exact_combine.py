"""An engine's logits have the same bits over any number of shards, by any way, and after a shard was lost."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from experts.config import Backend
from experts.transport.call import Form, most_rows
from kernels.native.library import available
from router_service.config import EngineConfig
from router_service.engine.builder import check_calls
from router_service.engine.cache_size import resolved_limits
from tests.support import oracle
from tests.support.mesh import LogitsSpy, Mesh, greedy, tokens_of
from tests.support.tiny import Tiny

STEPS = 8
# Those that compute each row by itself.
BACKENDS: list[Backend] = ["reference", "native"] if available() else ["reference"]


def run(
    monkeypatch: pytest.MonkeyPatch,
    tiny: Tiny,
    shards: int,
    way: str,
    dtype: torch.dtype,
    exact: bool,
    backend: Backend = "reference",
) -> tuple[list[list[int]], list[Tensor]]:
    """Tokens and each step's logits of a few requests together."""
    with monkeypatch.context() as patch:
        spy = LogitsSpy.on(patch)
        with Mesh(tiny.plan, shards, way, dtype, backend=backend, exact_combine=exact) as mesh:
            outputs = [tokens_of(events) for events in mesh.generate(oracle.prompts(4), greedy(STEPS))]
    return outputs, spy.steps


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_logits_do_not_depend_on_the_number_of_shards(
    monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Tiny], family: str, dtype: torch.dtype, backend: Backend
) -> None:
    monkeypatch.setattr("experts.transport.call.INLINE_BYTES", 0)  # these rows are few, and shall be shared
    tokens, logits = run(monkeypatch, tiny(family), 1, "local", dtype, True, backend)
    for shards, way in ((2, "unix"), (5, "local")):
        others, also = run(monkeypatch, tiny(family), shards, way, dtype, True, backend)
        assert others == tokens
        assert len(also) == len(logits)
        assert all(map(torch.equal, logits, also))


def test_with_sums_they_do(monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Tiny]) -> None:
    """Or the test above would prove nothing."""
    _, logits = run(monkeypatch, tiny("qwen3_moe"), 1, "local", torch.float32, False)
    _, also = run(monkeypatch, tiny("qwen3_moe"), 5, "local", torch.float32, False)
    assert not all(map(torch.equal, logits, also))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_lost_shard_changes_no_bit(tiny: Callable[..., Tiny], backend: Backend) -> None:
    """The step is repeated: the logarithms of the chosen tokens' probabilities are those of a calm run."""
    made, params = tiny("qwen3_moe"), greedy(12, logprobs=3)
    with Mesh(made.plan, 3, "unix", backend=backend, exact_combine=True) as mesh:
        calm = mesh.generate(oracle.prompts(3), params)
        keys = [mesh.submit(prompt, params) for prompt in oracle.prompts(3)]
        events = [event for _ in range(4) for event in mesh.engine.step()]
        mesh.servers.stop(1)
        events += [event for _ in range(3) for event in mesh.engine.step()]
        mesh.servers.start(1)
        rest = mesh.drain()
    for key, before in zip(keys, calm, strict=True):
        mine = [event for event in events if event.key == key] + rest[key]
        assert [(event.token, event.logprobs) for event in mine] == [(event.token, event.logprobs) for event in before]


def test_the_setting_is_refused_where_no_frame_holds_the_rows(tiny: Callable[..., Tiny]) -> None:
    """Rows take more than sums: what lies between the two is refused with it."""
    plan = tiny("qwen3_moe").plan
    spec, limits = plan.spec, resolved_limits(plan.spec, EngineConfig(token_budget=1_000_000))
    most = {form: most_rows(spec.hidden, torch.float32, spec.gate.top_k, form) for form in Form}
    between = replace(limits, token_budget=(most[Form.SUMS] + most[Form.EACH]) // 2)
    with pytest.raises(ValueError, match=r"set router\.token_budget to at most \d+ or experts\.exact_combine to false"):
        check_calls(spec, between, torch.float32, exact=True)
    check_calls(spec, between, torch.float32, exact=False)
