"""The checkpoint in cluster/bundled and the script in deploy/training that makes it."""

import json
import random
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoTokenizer, GenerationConfig, Qwen3MoeForCausalLM
from transformers.utils import logging as transformers_logging

REPOSITORY = Path(__file__).parents[3]
BUNDLED = REPOSITORY / "cluster" / "bundled"
TRAINING = REPOSITORY / "deploy" / "training"
TRAINING_MODULES = ("baselines", "checkpoint", "corpus", "evaluate", "model")


@pytest.fixture(autouse=True, scope="module")
def quiet_transformers() -> None:
    transformers_logging.disable_progress_bar()


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads((BUNDLED / "training_report.json").read_text())


@pytest.fixture(scope="module")
def loaded() -> tuple[Qwen3MoeForCausalLM, dict[str, Any]]:
    return Qwen3MoeForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32, output_loading_info=True)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The training scripts, imported as they import each other and forgotten again afterwards."""
    monkeypatch.syspath_prepend(str(TRAINING))
    for name in TRAINING_MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    modules = {name: __import__(name) for name in TRAINING_MODULES}
    yield type("Training", (), modules)
    for name in TRAINING_MODULES:
        sys.modules.pop(name, None)


def test_directory_is_below_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 10_000_000


def test_config_describes_a_small_mixture_of_experts() -> None:
    config = json.loads((BUNDLED / "config.json").read_text())
    assert config["model_type"] == "qwen3_moe"
    assert config["num_hidden_layers"] == 4
    assert config["num_experts"] >= 8
    assert config["num_experts_per_tok"] == 2


def test_every_weight_is_bfloat16() -> None:
    with safe_open(BUNDLED / "model.safetensors", framework="pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_transformers_loads_it_whole(loaded: tuple[Qwen3MoeForCausalLM, dict[str, Any]]) -> None:
    _, info = loaded
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_loss_on_held_out_library_text_is_far_below_the_bigrams(
    loaded: tuple[Qwen3MoeForCausalLM, dict[str, Any]], report: dict[str, Any]
) -> None:
    """Only files that the model never saw; their text may differ between Python versions, the margin allows for it."""
    library = Path(sysconfig.get_path("stdlib"))
    present = [path for name in report["text"]["held_out"] if (path := library / name).is_file()]
    if not present:
        pytest.skip("this Python has none of the held-out files")
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    texts = [path.read_text(encoding="utf-8").expandtabs()[:2000] for path in present[:6]]
    losses = [mean_loss(loaded[0], tokenizer.encode(text).ids) for text in texts]
    assert sum(losses) / len(losses) < report["baselines"]["bigram"]["nats_per_token"] - 0.7


@torch.inference_mode()
def mean_loss(model: Qwen3MoeForCausalLM, ids: list[int]) -> float:
    tokens = torch.tensor(ids)
    logits = model(tokens.unsqueeze(0)).logits[0]
    return functional.cross_entropy(logits[:-1], tokens[1:]).item()


def test_report_shows_what_the_balancing_loss_does(report: dict[str, Any]) -> None:
    runs = report["runs"]
    with_loss, without = runs["balanced"]["balance"], runs["unbalanced"]["balance"]
    assert with_loss["dead_experts"] == 0
    assert with_loss["max_violation"] < without["max_violation"]
    assert with_loss["tokens_per_expert"] >= 32


def test_report_beats_its_baselines(report: dict[str, Any]) -> None:
    losses = {name: figures["nats_per_token"] for name, figures in report["baselines"].items()}
    assert losses["trigram"] < losses["bigram"] < losses["unigram"]
    assert report["runs"]["balanced"]["nats_per_token"] < losses["trigram"] - 0.3


def test_chat_stops_at_the_end_of_its_turn(loaded: tuple[Qwen3MoeForCausalLM, dict[str, Any]]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    chat = [{"role": "user", "content": "Document os.path.exists"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    settings = GenerationConfig.from_pretrained(BUNDLED, do_sample=False, temperature=None, top_p=None)
    output = loaded[0].generate(**inputs, generation_config=settings, max_new_tokens=200)
    answer = output[0, inputs["input_ids"].shape[1] :]
    assert answer[-1] in settings.eos_token_id
    assert tokenizer.decode(answer, skip_special_tokens=True).strip()


def test_chat_template_renders_what_the_model_was_trained_on(training: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    chat = [("system", "Be short."), ("user", "Document re"), ("assistant", "Regular expressions.")]
    messages = [{"role": role, "content": text} for role, text in chat]
    expected = training.corpus.render_chat("Document re", "Regular expressions.", system="Be short.")
    assert tokenizer.apply_chat_template(messages, tokenize=False) == expected


def test_tokenizer_returns_every_text_unchanged() -> None:
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    text = "def f(x):\n\n    return 'é' + \"\\t\"\t # 12345 \r\n  \U0001f600<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_trained_network_is_the_one_that_transformers_computes(training: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = training.model.ModelConfig(vocab_size=300, hidden_size=48, head_dim=16, num_experts=8)
    model = training.model.MoeModel(config).bfloat16().float().eval()
    training.checkpoint.save_checkpoint(tmp_path, model, Tokenizer.from_file(str(BUNDLED / "tokenizer.json")))
    oracle = Qwen3MoeForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(300, (2, 70))
    with torch.inference_mode():
        expected, (logits, _) = oracle(tokens).logits, model(tokens)
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_balance_loss_is_one_when_even_and_the_expert_count_when_collapsed(training: Any) -> None:
    even, one_hot = torch.full((6, 4), 0.25), functional.one_hot(torch.zeros(6, dtype=torch.long), 4).float()
    assert training.model.balance_loss(even, torch.tensor([3, 3, 3, 3])).item() == pytest.approx(1.0)
    assert training.model.balance_loss(one_hot, torch.tensor([6, 0, 0, 0])).item() == pytest.approx(4.0)


def test_balance_figures_count_dead_experts_and_the_mean_violation(training: Any) -> None:
    figures = training.evaluate.balance_of(torch.tensor([[40, 40, 40, 40], [120, 37, 3, 0]]))
    assert (figures.dead_experts, figures.starved_experts) == (1, 2)
    assert figures.max_violation == pytest.approx((0 + 2) / 2)
    with pytest.raises(ValueError, match="too few"):
        training.evaluate.balance_of(torch.tensor([[1, 2, 3, 4]]))


def test_baselines_sum_to_one_and_follow_the_counts(training: Any) -> None:
    train = np.array([0, 1, 2, 0, 1, 0, 2, 1, 0, 1])
    interpolated = training.baselines.interpolated
    unigram = interpolated(train, np.arange(3), 1, 3, np.full(3, 1 / 3))
    assert unigram.sum() == pytest.approx(1.0)
    after_zero = [interpolated(train, np.array([0, word]), 2, 3, unigram[[0, word]])[1] for word in range(3)]
    assert sum(after_zero) == pytest.approx(1.0)
    # 0 is followed three times by 1 and once by 2: two followers, four counts.
    assert after_zero[1] == pytest.approx((3 + 2 * unigram[1]) / 6)


def test_chats_are_made_of_the_docstrings_and_short_functions(training: Any) -> None:
    function = (
        'def add(a, b):\n    """Return the sum of both."""\n    # as the name says, nothing else\n    return a + b\n'
    )
    document = training.corpus.Document("sums/add.py", f'"""Adds."""\n\n\n{function}')
    chats = [chat for seed in range(8) for chat in training.corpus.chats_from(document, random.Random(seed))]
    assert any("sums.add.add" in chat and "Return the sum of both.<|im_end|>" in chat for chat in chats)
    assert any("assistant\ndef add(a, b):" in chat for chat in chats)


@pytest.mark.timeout(960)
def test_the_training_command_writes_a_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, str(TRAINING / "train.py"), "--out", str(tmp_path)]
    quick = ["--steps", "2", "--vocab-size", "320", "--documents", "60"]
    subprocess.run(command + quick, check=True, capture_output=True, timeout=900)
    runs = json.loads((tmp_path / "training_report.json").read_text())["runs"]
    assert set(runs) == {"balanced", "unbalanced"}
    _, info = Qwen3MoeForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
