"""llama.cpp's measuring programs, run once for each round so that they take turns with the other sides."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.llama_cpp.gguf_file import write_gguf

BENCH, BATCHED, QUANTIZE = "llama-bench", "llama-batched-bench", "llama-quantize"
CALL_SECONDS = 900.0


@dataclass(frozen=True)
class LlamaCpp:
    """The programs of one build, all in the folder of `llama-bench`."""

    folder: Path

    @classmethod
    def of(cls, bench: Path) -> "LlamaCpp":
        """The build that a `llama-bench` belongs to.

        Raises:
            ValueError: one of the programs is not there.
        """
        folder = bench if bench.is_dir() else bench.parent
        if missing := [name for name in (BENCH, BATCHED, QUANTIZE) if not os.access(folder / name, os.X_OK)]:
            raise ValueError(
                f"--llama-bench: {folder} has no {', '.join(missing)}: build these targets of llama.cpp too"
            )
        return cls(folder.resolve())

    def converted(self, directory: Path, kind: str) -> Path:
        """The checkpoint as GGUF, beside it: `bf16`, or quantized by llama.cpp itself, such as `q4_0`."""
        file = directory.with_name(f"{directory.name}-{kind}.gguf")
        if file.exists():
            return file
        begun = file.with_suffix(".partial")
        if kind == "bf16":
            write_gguf(directory, begun)
        else:
            self._run(QUANTIZE, str(self.converted(directory, "bf16")), str(begun), kind)
        return begun.rename(file)

    def prefill_rate(self, file: Path, tokens: int) -> float:
        """Tokens per second of one prompt."""
        said = self._run(BENCH, "-m", str(file), *_threads(), "-p", str(tokens), "-n", "0", "-r", "1", "-o", "json")
        return prefill_rate_of(said)

    def decode_rate(self, file: Path, batch: int, prompt: int, steps: int) -> float:
        """Tokens per second of all of `batch` sequences, each behind a prompt of its own."""
        context = batch * (prompt + steps)
        sizes = ("-c", str(context), "-npp", str(prompt), "-ntg", str(steps), "-npl", str(batch))
        return decode_rate_of(self._run(BATCHED, "-m", str(file), *_threads(), *sizes, "--output-format", "jsonl"))

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run([self.folder / program, *arguments], capture_output=True, text=True, timeout=CALL_SECONDS)
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}: exit code {done.returncode}: {done.stderr[-500:]}")
        return done.stdout


def prefill_rate_of(said: str) -> float:
    """The rate in llama-bench's JSON: one test was asked for."""
    (result,) = json.loads(said)
    return float(result["avg_ts"])


def decode_rate_of(said: str) -> float:
    """The rate in llama-batched-bench's JSON lines, among which it may say other things."""
    results: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    (result,) = [one for one in results if "speed_tg" in one]
    return float(result["speed_tg"])


def _threads() -> tuple[str, str]:
    return "-t", str(len(os.sched_getaffinity(0)))
