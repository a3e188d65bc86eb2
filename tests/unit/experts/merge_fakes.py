"""Calls of several routers, an FFN whose sums are exact, and a work function that tests hold and let go."""

import threading
from collections.abc import Hashable, Mapping

import numpy as np
import torch
from torch import Tensor

from experts.shard.held.layer import HeldLayer
from experts.shard.held.states import CopyStates
from experts.shard.shard import NotHeldError
from experts.shard.waiting_calls import WaitingCall
from experts.transport.call import ExpertCall, Form

HIDDEN, SLOTS = 4, 3
WAIT_S = 60.0


def call_of(layer: int, rows: int, seed: int = 0) -> ExpertCall:
    """`rows` random rows, each sent to up to two slots, sorted by slot as routers send them."""
    random = np.random.default_rng(seed)
    pairs = [(row, slot) for slot in range(SLOTS) for row in range(rows) if random.random() < 2 / SLOTS]
    rows_A, experts_A = np.array(pairs, np.int32).reshape(-1, 2).T
    x_RD = torch.from_numpy(random.standard_normal((rows, HIDDEN), np.float32))
    weights_A = random.random(len(pairs), np.float32)
    return ExpertCall(layer, x_RD, np.ascontiguousarray(rows_A), np.ascontiguousarray(experts_A), weights_A)


def sums_of(call: ExpertCall) -> Tensor:
    """An FFN that treats each row by itself and adds in the order of its assignments: no other row changes its bits."""
    y_RD = np.zeros(call.x_RD.shape, np.float32)
    for row, slot, weight in zip(call.rows_A, call.experts_A, call.weights_A, strict=True):
        y_RD[row] += weight * (slot + 1 + call.layer) * np.tanh(call.x_RD[int(row)].numpy())
    return torch.from_numpy(y_RD)


def answer_of(call: ExpertCall) -> Tensor:
    """`sums_of`, or a row for each assignment where the call asks for those."""
    if call.form is Form.SUMS:
        return sums_of(call)
    scales_A1 = (call.weights_A * (call.experts_A + 1 + call.layer)).astype(np.float32)[:, None]
    return torch.from_numpy(scales_A1 * np.tanh(call.x_RD.numpy()[call.rows_A]))


def waiting(call: ExpertCall, connection: Hashable, gone: bool = False) -> WaitingCall:
    """The call as it waits."""
    return WaitingCall(call, 0, connection, lambda: gone)


class HeldWork:
    """`sums_of`, one computation for each `let_go`; `calls` has what was computed, in order."""

    def __init__(self) -> None:
        self.calls: list[ExpertCall] = []
        self._turns = threading.Semaphore(0)

    def __call__(self, call: ExpertCall) -> Tensor:
        self.calls.append(call)
        assert self._turns.acquire(timeout=WAIT_S), "the test never lets go"
        return sums_of(call)

    def let_go(self, computations: int = 1) -> None:
        """Let so many computations end."""
        self._turns.release(computations)


class HeldShard:
    """Holds `SLOTS` experts of each of nine layers; computes by `HeldWork`."""

    index, epoch, weights_bytes, load_seconds = 0, 5, 0, 0.0
    layers = dict.fromkeys(range(9))
    held = dict.fromkeys(layers, tuple(range(SLOTS)))
    states = CopyStates()
    snapshot: Mapping[int, HeldLayer] = {}

    def __init__(self) -> None:
        self.compute = HeldWork()

    def compute_sample(self, rows: int) -> bool:
        """As `ExpertShard.compute_sample`."""
        self.compute(call_of(0, rows))
        return True

    def check(self, call: ExpertCall) -> None:
        """As `ExpertShard.check`."""
        if call.layer not in self.layers or (len(call.experts_A) and call.experts_A.max() >= SLOTS):
            raise NotHeldError(self.index, call.layer, sorted(set(call.experts_A.tolist())))
