"""Record how the bundled model routes text of the live page's domains: python -m tests.benchmarks.balance.record

For each domain 16 streams go on from different places of the page's sample, in one process without Ray. Writes
`recordings/DOMAIN.npz`: `ids_RLK` uint8, the experts of all rows of all steps, and `rows_N`, how many each step had.
"""

import json
import re
from pathlib import Path

import numpy as np

from router_service.text.tokenizer_files import load_tokenizer
from tests.benchmarks.balance.recordings import DIRECTORY
from tests.benchmarks.traffic.stepped_engine import SteppedEngine

REPOSITORY = Path(__file__).parents[3]
BUNDLED = REPOSITORY / "cluster" / "bundled"
SAMPLES = REPOSITORY / "router_service" / "front" / "page" / "static" / "panels" / "samples.js"
STREAMS, NEW_TOKENS, TEMPERATURE = 16, 48, 0.7


def samples() -> dict[str, str]:
    """The text of each domain, as the page shows it."""
    found = re.findall(r'\["(\w+)", `([^`]*)`\]', SAMPLES.read_text(encoding="utf-8"))
    return {name: re.sub(r"\\u[0-9a-f]{4}", _character, text.replace("\\\n", "")) for name, text in found}


def _character(escape: re.Match[str]) -> str:
    return str(json.loads(f'"{escape[0]}"'))


def record(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the experts of each row of all steps, [R, L, K], and the rows of each step, [N]."""
    tokens = load_tokenizer(BUNDLED).encode(text, add_special_tokens=False)
    engine = SteppedEngine(BUNDLED, prefix_caching=False, overlap="off", threads=1, max_sequences=STREAMS)
    for stream in range(STREAMS):
        start = stream * len(tokens) // (2 * STREAMS)
        prompt = tokens[start : start + len(tokens) // 2]
        engine.submit(prompt, NEW_TOKENS, temperature=TEMPERATURE, seed=stream)
    while not engine.engine.idle():
        engine.step()
    steps = [np.stack([one.expert_ids_TK for _, one in record.trace.routings], axis=1) for record in engine.records]
    return np.concatenate(steps).astype(np.uint8), np.array([len(step) for step in steps], np.int32)


def main() -> None:
    """Record all domains."""
    DIRECTORY.mkdir(exist_ok=True)
    for name, text in samples().items():
        ids_RLK, rows_N = record(text)
        np.savez_compressed(DIRECTORY / f"{name.lower()}.npz", ids_RLK=ids_RLK, rows_N=rows_N)
        print(f"{name}: {len(rows_N)} steps, {len(ids_RLK)} rows")


if __name__ == "__main__":
    main()
