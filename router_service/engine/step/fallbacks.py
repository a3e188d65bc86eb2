"""What a batch does where chosen experts have no living copy: each row by its request's policy.

Experts that are known to be dead are replaced or dropped before anything is sent; those that are lost while a layer is
in flight, behind it. T tokens of the batch, E experts, K chosen, R rows concerned.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from experts.routing import LOST, Routing
from router_service.engine.request import Request
from router_service.engine.step.living import choose_living, without
from router_service.models.spec import Gate
from router_service.models.step_batch import Segment
from router_service.protocol.fallback import Fallback

POLICIES = tuple(Fallback)
WAIT, DROP, NEXT_BEST, FAIL = (np.int8(POLICIES.index(one)) for one in Fallback)
# In place of a layer's number, of a row that has had all of its experts.
WHOLE = np.iinfo(np.int32).max

Rows = NDArray[np.int64]
NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Missing:
    """Experts of a layer that a row would have needed, ascending."""

    layer: int
    experts: tuple[int, ...]


def policies_of(requests: Sequence[Request], segments: Sequence[Segment]) -> NDArray[np.int8] | None:
    """Each row's policy; None if all wait, as they do unless somebody asks for something else."""
    if all(request.fallback is Fallback.WAIT for request in requests):
        return None
    codes = np.array([POLICIES.index(request.fallback) for request in requests], dtype=np.int8)
    return codes.repeat([segment.length for segment in segments])


def refusal(missing: Iterable[Missing]) -> str:
    """Why a request with FAIL ends, from its rows: the first layer, and all that they lacked there."""
    rows = list(missing)
    layer = min(one.layer for one in rows)
    experts = sorted({expert for one in rows if one.layer == layer for expert in one.experts})
    named = f"expert{'s' * (len(experts) > 1)} {', '.join(map(str, experts))}"
    return f"layer {layer}: no living copy of {named} (fallback FAIL)"


@dataclass(frozen=True, slots=True)
class GateChoice:
    """What a layer's gate made of a batch, kept until its experts have answered: some may have to be chosen anew."""

    gate: Gate
    logits_TE: Tensor
    correction_E: Tensor | None
    routing: Routing

    def instead(self, rows_R: Rows, policy_R: NDArray[np.int8], dead_E: NDArray[np.bool_]) -> Routing:
        """The rows' routing without dead experts, by their policies."""
        ids_RK, weights_RK = self.routing.expert_ids_TK[rows_R], self.routing.weights_TK[rows_R]
        routing_R, _ = without(Routing(ids_RK, weights_RK), dead_E[ids_RK])
        best_R = np.flatnonzero(policy_R == NEXT_BEST)
        if len(best_R):
            chosen = choose_living(self.gate, self.logits_TE[rows_R[best_R]], dead_E, self.correction_E)
            routing_R = replaced(routing_R, best_R, chosen)
        return routing_R


def replaced(routing: Routing, rows_R: Rows, by: Routing) -> Routing:
    """The routing with other experts and weights for some rows."""
    ids_TK, weights_TK = routing.expert_ids_TK.copy(), routing.weights_TK.copy()
    ids_TK[rows_R], weights_TK[rows_R] = by.expert_ids_TK, by.weights_TK
    return Routing(ids_TK, weights_TK)


@dataclass(slots=True)
class Fallbacks:
    """The policies of a batch's rows, and what has become of them.

    `degraded_at_T` is the first layer in which a row had not all the experts that its gate chose, `WHOLE` if none;
    `missing` has the rows that fail.

    Args:
        policy_T: None if all rows wait.
        rescales: whether dropping an expert in flight only scales what the others have answered. False where an
            expert's weight goes into its input.
    """

    tokens: int
    policy_T: NDArray[np.int8] | None
    rescales: bool
    degraded_at_T: NDArray[np.int32] = field(init=False)
    missing: dict[int, Missing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.degraded_at_T = np.full(self.tokens, WHOLE, dtype=np.int32)

    @property
    def watchful(self) -> bool:
        """Whether a row goes on without some of its experts, so that it matters beforehand which are dead."""
        return self.policy_T is not None and bool(((self.policy_T == DROP) | (self.policy_T == NEXT_BEST)).any())

    def before(self, layer: int, choice: GateChoice, dead_E: NDArray[np.bool_] | None) -> Routing:
        """The routing to send: without the dead experts, for rows that go on without them."""
        if dead_E is None or self.policy_T is None:
            return choice.routing
        ids_TK = choice.routing.expert_ids_TK
        rows_R = self._going(((ids_TK != LOST) & dead_E[ids_TK]).any(axis=1))
        if not len(rows_R):
            return choice.routing
        self._mark(layer, rows_R)
        return replaced(choice.routing, rows_R, choice.instead(rows_R, self.policy_T[rows_R], dead_E))

    def lose(self, layer: int, routing: Routing, lost_TK: NDArray[np.bool_]) -> tuple[Rows, Rows, Rows]:
        """Note what a layer has lost. Return the rows that end here, those to be scaled, those to be asked anew."""
        lost_T = np.asarray(lost_TK.any(axis=1))
        if self.policy_T is None:
            return lost_T.nonzero()[0], NO_ROWS, NO_ROWS
        going_R = self._going(lost_T)
        self._mark(layer, going_R)
        for row in np.flatnonzero(lost_T & (self.policy_T == FAIL)).tolist():
            self.missing[row] = Missing(layer, tuple(sorted(routing.expert_ids_TK[row][lost_TK[row]].tolist())))
        lost_T[going_R] = False
        scaled_R = (self.policy_T[going_R] == DROP) & self.rescales
        return np.flatnonzero(lost_T), going_R[scaled_R], going_R[~scaled_R]

    def _going(self, concerned_T: NDArray[np.bool_]) -> Rows:
        assert self.policy_T is not None
        return np.flatnonzero(concerned_T & ((self.policy_T == DROP) | (self.policy_T == NEXT_BEST)))

    def _mark(self, layer: int, rows_R: Rows) -> None:
        self.degraded_at_T[rows_R] = np.minimum(self.degraded_at_T[rows_R], layer)
