"""Which experts each token goes to. T tokens, K experts per token."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# In place of the ids of a token that lost experts in an earlier layer: what it computes now will be thrown away.
LOST = -1


@dataclass(frozen=True, slots=True)
class Routing:
    """`expert_ids_TK` int64 and `weights_TK` float32, in host memory; a row of `LOST` ids goes nowhere."""

    expert_ids_TK: NDArray[np.int64]
    weights_TK: NDArray[np.float32]
