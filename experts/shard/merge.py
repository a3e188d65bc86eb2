"""Several calls for one layer as one call, and its sums taken apart again.

R rows and A assignments of a call, D hidden.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from experts.transport.call import ExpertCall


def merged(calls: Sequence[ExpertCall]) -> ExpertCall:
    """One call with the rows of all `calls`, which name one layer and share dtype and width, in their order.

    Assignments are sorted by slot; within a slot they keep the order of the calls, and so do a row's own assignments:
    its sum is added up in the same order as alone.
    """
    if len(calls) == 1:
        return calls[0]
    starts = _ends(calls)[:-1]
    slots_A = np.concatenate([call.slots_A for call in calls])
    order_A = np.argsort(slots_A, kind="stable")
    rows_A = np.concatenate([call.rows_A + start for call, start in zip(calls, starts, strict=True)])
    weights_A = np.concatenate([call.weights_A for call in calls])
    x_RD = torch.cat([call.x_RD for call in calls])
    return ExpertCall(calls[0].layer, x_RD, rows_A[order_A], slots_A[order_A], weights_A[order_A])


def taken_apart(y_RD: Tensor, calls: Sequence[ExpertCall]) -> Sequence[Tensor]:
    """Each call's part of the sums of `merged(calls)`, without a copy."""
    ends = _ends(calls)
    return [y_RD[start:end] for start, end in pairwise(ends)]


def _ends(calls: Sequence[ExpertCall]) -> list[int]:
    """0, and the row behind each call's last one."""
    return [0, *accumulate(len(call.x_RD) for call in calls)]
