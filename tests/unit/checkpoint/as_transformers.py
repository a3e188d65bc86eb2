"""A checkpoint computes what transformers' model does that holds the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from experts.checkpoint.directory import Checkpoint
from router_service.models.families.registry import ModelPlan, plan_model
from tests.support import oracle
from tests.support.mesh import LogitsSpy, Mesh, greedy, tokens_of
from tests.support.oracle import check_logits

SOME = oracle.prompts()[::3]
TOKENS = 32


def check(
    path: Path, model: Any, monkeypatch: pytest.MonkeyPatch, plan: ModelPlan | None = None, **options: Any
) -> None:
    """The checkpoint at `path` (by `plan`), over two shards, computes what transformers' `model` does."""
    answers, spy = oracle.greedy(model, SOME, TOKENS), LogitsSpy.on(monkeypatch)
    with Mesh(plan or plan_model(Checkpoint(path)), 2, **options) as mesh:
        outputs = mesh.generate([a.prompt for a in answers], greedy(TOKENS))
    assert [tokens_of(events) for events in outputs] == [a.tokens for a in answers]
    check_logits(torch.stack(spy.steps), torch.stack([a.logits_GV for a in answers], dim=1))
