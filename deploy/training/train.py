"""Trains the bundled model from the text that every Python installation carries, and reports how it did.

    python deploy/training/train.py --out cluster/bundled

Fits the same network twice, with and without the load-balancing loss, everything else the same: the first becomes the
checkpoint, `training_report.json` compares both with each other and with count-based baselines on held-out files.
"""

import argparse
import ctypes
import multiprocessing
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from baselines import baseline_losses
from checkpoint import save_checkpoint, write_json
from corpus import Document, all_documents, digest_of
from evaluate import HeldOut, evaluate
from fit import Schedule, fit
from model import ModelConfig, MoeModel
from numpy.typing import NDArray
from samples import demo_samples
from tokenizer import token_stream, train_tokenizer, training_texts
from tokenizers import Tokenizer

BALANCE_WEIGHTS = {"balanced": 0.01, "unbalanced": 0.0}


@dataclass(frozen=True)
class Data:
    tokenizer: Tokenizer
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    held_out_bytes: int
    documents: list[Document]


@dataclass(frozen=True)
class Run:
    """One fit: `weights` is the state of the model, rounded to bfloat16 as the checkpoint stores it."""

    weights: dict[str, NDArray[np.float32]]
    held_out: HeldOut
    seconds: float


def main() -> None:
    torch.set_num_threads(1)
    arguments = parse_arguments()
    schedule = Schedule(steps=arguments.steps, seed=arguments.seed)
    data = prepare_data(arguments.vocab_size, arguments.seed, arguments.documents)
    config = ModelConfig(vocab_size=data.tokenizer.get_vocab_size())
    runs = fit_all(config, data, schedule, arguments.jobs)
    model = restored(config, runs["balanced"])
    save_checkpoint(arguments.out, model, data.tokenizer)
    write_json(arguments.out / "training_report.json", report(model, data, schedule, runs))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the bundled mixture-of-experts model.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the report")
    parser.add_argument("--steps", type=int, default=Schedule.steps)
    parser.add_argument("--vocab-size", type=int, default=3072)
    parser.add_argument("--seed", type=int, default=Schedule.seed)
    parser.add_argument("--jobs", type=int, default=1, help="2 fits both models side by side, one thread each")
    parser.add_argument("--documents", type=int, help="read only every n-th document, for a quick try")
    return parser.parse_args()


def prepare_data(vocab_size: int, seed: int, every: int | None) -> Data:
    documents = all_documents()
    train, held_out = ([d for d in documents if d.held_out is flag][::every] for flag in (False, True))
    texts = training_texts(train, seed)
    tokenizer = train_tokenizer(texts, vocab_size)
    streams = (token_stream(tokenizer, part) for part in (texts, [d.text for d in held_out]))
    return Data(tokenizer, *streams, sum(len(d.text.encode()) for d in held_out), train + held_out)


def fit_all(config: ModelConfig, data: Data, schedule: Schedule, jobs: int) -> dict[str, Run]:
    """A fresh process per run, so that neither sees what the other did to torch's state."""
    shared = (config, data.train, data.held_out, data.held_out_bytes, schedule)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = {label: pool.submit(fit_and_evaluate, label, *shared) for label in BALANCE_WEIGHTS}
        return {label: future.result() for label, future in waiting.items()}


def fit_and_evaluate(
    label: str,
    config: ModelConfig,
    train: NDArray[np.int64],
    held_out: NDArray[np.int64],
    held_out_bytes: int,
    schedule: Schedule,
) -> Run:
    keep_freed_memory()
    torch.set_num_threads(1)
    began = time.monotonic()
    model = fit(config, train, schedule, BALANCE_WEIGHTS[label], label)
    seconds = time.monotonic() - began
    model.bfloat16().float()
    figures = evaluate(model, held_out, held_out_bytes)
    return Run({name: weight.numpy() for name, weight in model.state_dict().items()}, figures, seconds)


def keep_freed_memory() -> None:
    """Tells glibc to reuse large blocks instead of returning each to the system: a third off the time of a step."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_max = -1, -4
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def restored(config: ModelConfig, run: Run) -> MoeModel:
    model = MoeModel(config)
    model.load_state_dict({name: torch.from_numpy(weight) for name, weight in run.weights.items()})
    return model.eval()


def report(model: MoeModel, data: Data, schedule: Schedule, runs: dict[str, Run]) -> dict[str, object]:
    """Everything that the model card says, and what another machine needs to tell whether it read the same text."""
    baselines = baseline_losses(data.train, data.held_out, model.config.vocab_size)
    to_bits = (len(data.held_out) - 1) / np.log(2) / data.held_out_bytes
    return {
        "text": {
            "python": platform.python_version(),
            "sha256": digest_of(data.documents),
            "train_tokens": len(data.train),
            "held_out_tokens": len(data.held_out),
            "held_out_bytes": data.held_out_bytes,
            "held_out": [d.name for d in data.documents if d.held_out],
        },
        "torch": torch.__version__,
        "machine": platform.machine(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "schedule": asdict(schedule),
        "baselines": {n: {"nats_per_token": v, "bits_per_byte": float(v * to_bits)} for n, v in baselines.items()},
        "runs": {
            label: {"balance_weight": BALANCE_WEIGHTS[label], "seconds": round(run.seconds), **asdict(run.held_out)}
            for label, run in runs.items()
        },
        "samples": demo_samples(model, data.tokenizer),
    }


if __name__ == "__main__":
    main()
