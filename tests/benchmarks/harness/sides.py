"""Who is measured without a cluster: transformers, and our engine in one process. Both give seconds.

`prefill(tokens)` is one prompt up to its first token. `decode(prompts, steps)` is `steps` tokens for each of the
prompts, all of one length, after their first tokens; the prompts' own time is left out.
"""

import os
import time
from itertools import count
from pathlib import Path
from typing import Any

import torch

Tokens = list[int]
GATHER_BYTES = 512 << 20


class TransformersModel:
    """Greedy generation with a cache and nothing else, by any of the experts' implementations."""

    def __init__(self, directory: Path, dtype: str) -> None:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()

    def implementations(self, rows: int) -> list[str]:
        """Those that can be tried on so many rows: `batched_mm` copies an expert for each (row, expert) pair."""
        config = self._model.config
        experts = next(p for name, p in self._model.named_parameters() if name.endswith("experts.gate_up_proj"))
        copied = rows * config.num_experts_per_tok * experts[0].numel() * experts.element_size()
        return ["eager", "grouped_mm", *(["batched_mm"] if copied <= GATHER_BYTES else [])]

    @torch.inference_mode()
    def prefill(self, implementation: str, tokens: Tokens) -> float:
        """Seconds of one prompt."""
        self._model.set_experts_implementation(implementation)
        begun = time.perf_counter()
        self._first([tokens])
        return time.perf_counter() - begun

    @torch.inference_mode()
    def decode(self, implementation: str, prompts: list[Tokens], steps: int) -> float:
        """Seconds of `steps` steps; the prompts, which are not timed, have too many rows for some implementations."""
        self._model.set_experts_implementation("eager")
        cache, ids_B1 = self._first(prompts)
        self._model.set_experts_implementation(implementation)
        begun = time.perf_counter()
        for _ in range(steps):
            out = self._model(ids_B1, past_key_values=cache, use_cache=True)
            ids_B1 = out.logits[:, -1].argmax(-1, keepdim=True)
        return time.perf_counter() - begun

    def _first(self, prompts: list[Tokens]) -> tuple[Any, torch.Tensor]:
        out = self._model(torch.tensor(prompts), use_cache=True, logits_to_keep=1)
        return out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)


class EngineSide:
    """An engine that this process steps."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self._keys = count(1)

    def prefill(self, tokens: Tokens) -> float:
        """Seconds of one prompt."""
        self._submit(tokens, 1)
        begun = time.perf_counter()
        self._run_out()
        return time.perf_counter() - begun

    def decode(self, prompts: list[Tokens], steps: int) -> float:
        """Seconds of `steps` steps; all prompts fit into the first."""
        self.start(prompts, steps)
        begun = time.perf_counter()
        self._run_out()
        return time.perf_counter() - begun

    def start(self, prompts: list[Tokens], steps: int) -> None:
        """Take the prompts in and run their first step; `steps` more will end them."""
        for tokens in prompts:
            self._submit(tokens, steps + 1)
        if len(self.engine.step()) != len(prompts):
            raise RuntimeError(f"the token budget is too small for {len(prompts)} prompts in one step")

    def submit(self, prompts: list[Tokens], new_tokens: int, **params: Any) -> None:
        """Queue prompts; `params` are fields of `SamplingParams`."""
        for tokens in prompts:
            self._submit(tokens, new_tokens, **params)

    def _submit(self, tokens: Tokens, new_tokens: int, **params: Any) -> None:
        from tests.benchmarks.harness.requests import submit

        submit(self.engine, next(self._keys), tokens, new_tokens, **params)

    def _run_out(self) -> None:
        while not self.engine.idle():
            if failed := next((event.failure for event in self.engine.step() if event.failure), None):
                raise RuntimeError(failed.message)


class OneProcess(EngineSide):
    """Our engine with one local shard: no Ray, no sockets, no gRPC."""

    def __init__(self, directory: Path, dtype: str, kv_tokens: int = 0, packed: bool = False) -> None:
        from cluster.config import ModelConfig
        from cluster.planner.model import open_model
        from experts.config import ExpertsConfig, WeightsConfig
        from router_service.config import EngineConfig
        from router_service.engine.builder import build_engine, local_shards

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        model = open_model(
            ModelConfig(checkpoint=str(directory), dtype=dtype), WeightsConfig("packed" if packed else "dequantized")
        )
        experts = ExpertsConfig(shards=1)
        settings = EngineConfig(kv_cache_tokens=kv_tokens)
        form = {"dtype": model.dtype, "device": model.device, "keep_packed": packed}
        transport = local_shards(model.plan, experts, **form)
        super().__init__(build_engine(model.plan, transport, experts, settings, **form))
