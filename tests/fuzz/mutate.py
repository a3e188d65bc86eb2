"""Mutations of bytes, drawn from a generator, so that a seed and a number give the same input again."""

from collections.abc import Sequence
from random import Random

from tests.fuzz.target import Mutation, Target

MOST_BYTES = 1 << 14
MOST_MUTATIONS = 4
# Where code that adds, multiplies or allocates by a number goes wrong.
EDGES = (0, 1, 2, 3, 7, 8, 63, 64, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def mutated(target: Target, seed: int, number: int) -> bytes:
    """Input `number` of a run: the same for the same seed, whatever else runs."""
    random = Random(f"{seed} {target.name} {number}")
    data = random.choice(target.seeds)
    mutations = (*BYTES, *target.mutations * (1 + len(BYTES) // 2))
    for _ in range(random.randint(1, MOST_MUTATIONS)):
        if random.random() < 0.1:
            data = spliced(random, data, random.choice(target.seeds))
        else:
            data = random.choice(mutations)(random, data)
    return data[:MOST_BYTES]


def spliced(random: Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one input and the end of another."""
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


def _flip(random: Random, data: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _byte(random: Random, data: bytes) -> bytes:
    if not data:
        return random.randbytes(1)
    at = random.randrange(len(data))
    return data[:at] + random.randbytes(1) + data[at + 1 :]


def _edge(random: Random, data: bytes) -> bytes:
    """A number of usual width, at a usual place, is now one at which ranges end."""
    width = random.choice((1, 2, 4, 8))
    if len(data) < width:
        return data
    at = random.randrange(len(data) - width + 1)
    at -= at % width if random.random() < 0.5 else 0
    value = (random.choice(EDGES) + random.randint(-1, 1)) % (1 << 8 * width)
    return data[:at] + value.to_bytes(width, random.choice(("little", "big"))) + data[at + width :]


def _insert(random: Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + random.randbytes(random.choice((1, 2, 4, 8, 40))) + data[at:]


def _remove(random: Random, data: bytes) -> bytes:
    first, last = _range(random, data)
    return data[:first] + data[last:]


def _repeat(random: Random, data: bytes) -> bytes:
    first, last = _range(random, data)
    return data[:last] + data[first:last] * random.choice((1, 1, 2, 50)) + data[last:]


def _cut(random: Random, data: bytes) -> bytes:
    return data[: random.randint(0, len(data))]


def _range(random: Random, data: bytes) -> Sequence[int]:
    return sorted(random.randint(0, len(data)) for _ in range(2))


BYTES: tuple[Mutation, ...] = (_flip, _byte, _edge, _insert, _remove, _repeat, _cut)
