"""Several calls for one layer as one call, and its answer taken apart again.

R rows and A assignments of a call, N rows of an answer (R or A), D hidden.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from experts.transport.call import ExpertCall, Form


def merged(calls: Sequence[ExpertCall]) -> ExpertCall:
    """One call with the rows of all `calls`, which name one layer and share dtype, width and form, in their order.

    Where the answer has sums, assignments are sorted by expert; within an expert they keep the order of the calls, and
    so do a row's own assignments: its sum is added up in the same order as alone. Where it has a row for each
    assignment, they stay one call's behind the other's, as their rows are to be taken apart. What else a call says is
    the first one's.
    """
    if len(calls) == 1:
        return calls[0]
    starts = _ends(calls)[:-1]
    experts_A = np.concatenate([call.experts_A for call in calls])
    rows_A = np.concatenate([call.rows_A + start for call, start in zip(calls, starts, strict=True)])
    weights_A = np.concatenate([call.weights_A for call in calls])
    x_RD = torch.cat([call.x_RD for call in calls])
    if calls[0].form is Form.EACH:
        return replace(calls[0], x_RD=x_RD, rows_A=rows_A, experts_A=experts_A, weights_A=weights_A)
    order_A = np.argsort(experts_A, kind="stable")
    rows_A, experts_A, weights_A = rows_A[order_A], experts_A[order_A], weights_A[order_A]
    return replace(calls[0], x_RD=x_RD, rows_A=rows_A, experts_A=experts_A, weights_A=weights_A)


def taken_apart(y_ND: Tensor, calls: Sequence[ExpertCall]) -> Sequence[Tensor]:
    """Each call's part of the answer to `merged(calls)`, without a copy."""
    if len(calls) == 1:
        return [y_ND]
    ends = [0, *accumulate(call.reply_rows for call in calls)]
    return [y_ND[start:end] for start, end in pairwise(ends)]


def _ends(calls: Sequence[ExpertCall]) -> list[int]:
    """0, and the row behind each call's last one."""
    return [0, *accumulate(len(call.x_RD) for call in calls)]
