"""Two tiny checkpoints of one model that differ in their gates' correction bias alone: one is even, one is skewed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tests.support.tiny import make_model, write_tokenizer

FAMILY = "deepseek_v3"
EXPERTS = 12
SHARDS = 2
# Rounds and step of the bias update that DeepSeek-V3 trains with (arXiv 2408.15664), on random tokens.
ROUNDS, STEP = 80, 0.02
# Under both, a layer's experts 0 to 5 lie on the first shard. 6 to 8 get a token now and then, 9 to 11 none.
SKEW = (0.0,) * 6 + (-0.7,) * 3 + (-9.0,) * 3
DEAD_EXPERTS = 3 * 2


def write_even(path: Path) -> None:
    """Write the checkpoint whose experts get about the same number of tokens each."""
    model = _model()
    for _ in range(ROUNDS):
        with torch.no_grad(), _loads(model) as loads:
            model(torch.randint(0, 256, (16, 48)))
        for gate in _gates(model):
            gate.e_score_correction_bias += STEP * torch.sign(loads[gate].mean() - loads[gate])
    _write(model, path)


def write_skewed(path: Path) -> None:
    """Write the checkpoint that sends nearly all tokens to the first shard and none to a quarter of the experts."""
    model = _model()
    for gate in _gates(model):
        gate.e_score_correction_bias.copy_(torch.tensor(SKEW))
    _write(model, path)


def _model() -> Any:
    # One group: the bias of each expert then acts by itself.
    model = make_model(FAMILY, n_group=1, topk_group=1)
    for gate in _gates(model):
        gate.e_score_correction_bias.zero_()
    return model


def _gates(model: Any) -> list[Any]:
    return [layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "gate")]


@contextmanager
def _loads(model: Any) -> Iterator[dict[Any, torch.Tensor]]:
    """Tokens of each expert by gate, filled while the block runs the model."""
    loads: dict[Any, torch.Tensor] = {}

    def note(gate: Any, _: Any, output: Any) -> None:
        loads[gate] = torch.bincount(output[2].reshape(-1), minlength=EXPERTS).float()

    hooks = [gate.register_forward_hook(note) for gate in _gates(model)]
    try:
        yield loads
    finally:
        for hook in hooks:
            hook.remove()


def _write(model: Any, path: Path) -> None:
    model.save_pretrained(path)
    write_tokenizer(path)
