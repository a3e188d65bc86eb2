"""Structured output: llguidance against xgrammar, what masks cost, and whether every answer has its form.

    python -m tests.benchmarks.bench_structured [--rows libraries,nasty,speed,valid]

`libraries` and `nasty` compare the libraries for the bundled vocabulary and one of 131,072 tokens (Mistral's Tekken,
skipped without `mistral-common`); xgrammar, which nothing else here uses, is skipped where it is not installed. `speed`
is the engine at batch 16 with masks / without. `valid` draws 500 schemas and 50 regular expressions at temperature 1.5.
"""

import argparse
from collections.abc import Iterator
from importlib.util import find_spec
from statistics import median

from cluster.table import table
from tests.benchmarks.structured.answers import ratio, speeds, validity
from tests.benchmarks.structured.cases import NASTY, USUAL
from tests.benchmarks.structured.libraries import LIBRARIES, compiling, measure
from tests.benchmarks.structured.vocabularies import vocabularies

ROWS = ("libraries", "nasty", "speed", "valid")


def usable() -> list[str]:
    """The libraries that are installed; says which are not."""
    for name in LIBRARIES:
        if find_spec(name) is None:
            print(f"{name}: skipped, not installed")
    return [name for name in LIBRARIES if find_spec(name) is not None]


def at_hand() -> Iterator[tuple[str, list[bytes]]]:
    """The vocabularies that are installed; says which are not."""
    for name, tokens in vocabularies():
        if tokens is None:
            print(f"{name}: skipped, mistral-common is not installed")
        else:
            yield name, tokens


def libraries(rounds: int) -> None:
    """Print milliseconds to compile, and to make the masks of a step of 16 answers."""
    rows = []
    for vocabulary, tokens in at_hand():
        for case, (schema, answer) in USUAL.items():
            for name in usable():
                found = measure(name, tokens, schema, answer, rounds)
                rows.append([vocabulary, case, name, *(f"{found[key]:.2f}" for key in ("compile", "mask", "worst"))])
    print(table(["vocabulary", "schema", "library", "compile ms", "masks of 16 ms", "worst"], rows, 3))


def nasty() -> None:
    """Print milliseconds to compile and make the first mask."""
    for vocabulary, tokens in at_hand():
        rows = [[case, *(compiling(name, tokens, schema) for name in usable())] for case, schema in NASTY.items()]
        print(vocabulary)
        print(table(["schema", *usable()], rows))


def speed(rounds: int) -> None:
    """Print tokens/s at batch 16 with masks / without."""
    pairs = speeds(rounds=10 * rounds)
    rows = []
    for clock in ("wall", "engine", "process"):
        plain, masked = (1e3 * median(getattr(step, clock) for step in side) for side in zip(*pairs, strict=True))
        rows.append([clock, f"{plain:.2f}", f"{masked:.2f}", f"{ratio(pairs, clock):.3f}"])
    print(table(["decode step of 16, bundled, ms", "plain", "masked", "tokens/s with / without"], rows))


def valid() -> None:
    """Print how many answers have their form."""
    found = validity(500, 50)
    print(f"{found.valid} valid, {found.cut} cut by max_tokens, {found.invalid} invalid; {found.tokens} tokens")


def main() -> None:
    """Measure the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    measured = {
        "libraries": lambda: libraries(args.rounds),
        "nasty": nasty,
        "speed": lambda: speed(args.rounds),
        "valid": valid,
    }
    for row in args.rows.split(","):
        measured[row]()


if __name__ == "__main__":
    main()
