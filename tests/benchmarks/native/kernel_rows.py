"""Rows `layer` and `attention`: one call of a kernel, as a share of what memory or registers can do."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from kernels import select
from tests.benchmarks.bench_attention import FORMS, rows_of
from tests.benchmarks.native.figure import Figure
from tests.benchmarks.native.plan import Plan

FEW, MANY = (1, 2, 4), (64, 128)  # rows an expert: memory is the limit, arithmetic is
CALLS = 3  # of each round, of which the median counts
SEQUENCES, CONTEXT = 32, 1000
CACHE_BYTES = 256 << 20  # of all layers that are read in turn, so that none is in a cache
CACHE_FORMS = {"deepseek": "DeepSeek-like"}
STD = 0.03


def layer(plan: Plan) -> list[Figure]:
    """The expert FFN of one layer in bf16, every expert with as many rows."""
    plan.close()
    torch.set_num_threads(plan.threads)
    torch.manual_seed(0)
    gate_up, down = _weights(plan)
    ops = select.ops("auto")
    weights = ops.prepare_weights(gate_up, down)
    bytes_read, figures = gate_up.nbytes + down.nbytes, []
    for rows in (*FEW, *MANY):
        x_TD, token_N, expert_N, weight_N = even_rows(plan, rows)
        taken = timed(lambda given=(x_TD, weights, token_N, expert_N, weight_N): ops.expert_ffn(*given), plan.rounds)
        operations = 2 * len(token_N) * (gate_up[0].numel() + down[0].numel())
        figures += _shares(plan, rows, taken, bytes_read, operations, ops.backend.value)
    return figures


def attention(plan: Plan) -> list[Figure]:
    """Decode attention of 32 sequences of 1,000 tokens over paged keys and values, each call in another cache."""
    plan.close()
    torch.set_num_threads(plan.threads)
    form = FORMS[CACHE_FORMS.get(plan.shape, "Qwen3-like")]
    rows, slots = rows_of([CONTEXT] * SEQUENCES, scattered=True)
    read = SEQUENCES * CONTEXT * form.token_bytes
    caches = [form.cache(slots) for _ in range(max(1, CACHE_BYTES // read))]
    q_BHC = torch.randn(SEQUENCES, form.heads, form.size, dtype=torch.bfloat16)
    attend = select.ops("auto").paged_attention

    def step() -> None:
        for cache in caches:
            attend(q_BHC, cache, rows, 0.1, None)

    taken = [seconds / len(caches) for seconds in timed(step, plan.rounds)]
    what = f"{plan.shape}, {SEQUENCES} sequences of {CONTEXT} tokens: share of read bandwidth"
    note = f"median {1e3 * sorted(taken)[len(taken) // 2]:.2f} ms a layer of {read / 1e6:.1f} MB"
    return [Figure("attention", what, "share", shares(read, taken, plan.limits.bytes_per_second), 1.0, 0.7, True, note)]


def even_rows(plan: Plan, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows such that each expert has exactly `rows`: activations, and each row's token, expert and weight."""
    sizes = plan.sizes
    pairs = sizes.experts * rows
    tokens = -(-pairs // sizes.top_k)
    x_TD = torch.randn(tokens, plan.config["hidden_size"]).bfloat16()
    number_N = torch.arange(pairs)
    return x_TD, number_N // sizes.top_k, number_N % sizes.experts, torch.rand(pairs)


def timed(work: Callable[[], object], rounds: int, calls: int = CALLS) -> list[float]:
    """Seconds of a call in each round, the median of a few, after one round that warms up."""
    with torch.inference_mode():
        return [sorted(_seconds(work) for _ in range(calls))[calls // 2] for _ in range(rounds + 1)][1:]


def shares(done: float, seconds: list[float], most_per_second: float) -> tuple[float, ...]:
    """What was done in each time, as a share of what can be done."""
    return tuple(done / taken / most_per_second for taken in seconds)


def _weights(plan: Plan) -> tuple[Tensor, Tensor]:
    experts, hidden = plan.sizes.experts, plan.config["hidden_size"]
    size = int(plan.sizes.expert_weights) // (3 * hidden)
    gate_up = torch.empty(experts, 2 * size, hidden, dtype=torch.bfloat16).normal_(0.0, STD)
    return gate_up, torch.empty(experts, hidden, size, dtype=torch.bfloat16).normal_(0.0, STD)


def _shares(plan: Plan, rows: int, taken: list[float], read: int, operations: int, backend: str) -> list[Figure]:
    """The share that is the limit at so many rows has a target; the other one says how far it is."""
    limits, name = plan.limits, f"{plan.shape}, {rows} rows an expert"
    note = f"{backend}, median {1e3 * sorted(taken)[len(taken) // 2]:.2f} ms"
    if rows in FEW:
        of_bytes = shares(read, taken, limits.bytes_per_second)
        return [Figure("layer", f"{name}: share of read bandwidth", "share", of_bytes, 1.0, 0.8, True, note)]
    of_peak = shares(operations, taken, limits.operations_per_second)
    return [Figure("layer", f"{name}: share of the arithmetic peak", "share", of_peak, 1.0, 0.6, True, note)]


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
