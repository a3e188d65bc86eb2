"""What the pool and its flights need of a division, whichever form the answers have.

T tokens, K experts per token, P parts, R rows of a call, A its assignments, N rows of all answers.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from experts.placement import Shards

# The place of a row of zeros in the answer room: it stands for what a token has not, or has lost.
NOTHING = 0


class CallRows(NamedTuple):
    """What one call has: the tokens whose rows it sends, and for each assignment the row, the expert, the weight.

    `whole`: the rows are those of all tokens, in their order, so that nothing needs to be gathered.
    """

    tokens_R: NDArray[np.int64]
    rows_A: NDArray[np.int32]
    experts_A: NDArray[np.int32]
    weights_A: NDArray[np.float32]
    whole: bool


class Sizes(NamedTuple):
    """Of a call, or of a part of one: rows sent, assignments, experts whose weights they need."""

    rows: int
    assignments: int
    experts: int


class Division(Protocol):
    """P parts. Part p is held by the shards `holders[p]`, of which `chosen[p]` is to be asked if it can be.

    `runs` are the calls if that is so: a shard and the parts asked of it, ascending. The answer to part p has the rows
    from `ends[p]` to `ends[p + 1]` of all answers, [P + 1].
    """

    @property
    def holders(self) -> Sequence[Shards]: ...  # noqa: D102 (see above)

    @property
    def chosen(self) -> Sequence[int]: ...  # noqa: D102

    @property
    def runs(self) -> Sequence[tuple[int, Sequence[int]]]: ...  # noqa: D102

    @property
    def ends(self) -> Sequence[int]: ...  # noqa: D102

    def call_rows(self, parts: Sequence[int]) -> CallRows:
        """What a call for these parts has; its answer has their rows one part's behind the other's."""
        ...

    def sizes(self, parts: Sequence[int]) -> Sizes:
        """How much is asked with these parts."""
        ...

    def places(self) -> NDArray[np.int64]:
        """Where each token's answers lie in the answer room, in the order in which they are added, [T, W]."""
        ...

    def without(self, places_TW: NDArray[np.int64], parts: Sequence[int]) -> NDArray[np.int64]:
        """The places with zeros in those of parts that nobody has answered."""
        ...

    def pairs(self, part: int) -> NDArray[np.int64]:
        """Where the routing lists the part's pairs: token x K + place among the token's experts."""
        ...


def distinct(experts_A: NDArray[np.int32]) -> int:
    """How many experts there are, those that are equal standing together."""
    return 1 + int(np.count_nonzero(experts_A[1:] != experts_A[:-1])) if len(experts_A) else 0
