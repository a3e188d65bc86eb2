"""INT4 groups as GPTQ's tools write them: AutoGPTQ, GPTQModel, optimum.

Source: GPTQ (arXiv 2210.17323) and https://github.com/ModelCloud/GPTQModel, whose loader gives v1's zero points back
the one that its writer takes: 0x11111111 is added to each word as a whole, so that a borrow between them is undone.
Legend: O outputs, I inputs, G groups.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.encodings.int4_tensors import int4_bytes, int4_matrix, whole_words
from experts.checkpoint.stored import FLOATS, Shape, Stored
from kernels.formats.groups import groups_of
from kernels.formats.int4_groups import Int4Groups
from kernels.formats.nibbles import as_bytes, unpacked_nibbles

ONE_IN_EACH = 0x11111111


@dataclass(frozen=True, slots=True)
class GptqEncoding(Encoding):
    """Eight inputs an int32 [I/8, O], zero points of eight outputs an int32 [G, O/8], scales [G, O].

    `group` is its size, None a whole row; `zero_less_one` is checkpoint_format `gptq` (v1), which stores zero points
    less one; `ordered` says that inputs may be in any group (desc_act), `indexed` that `g_idx` says in which. Where
    `symmetric`, all zero points are 8.
    """

    group: int | None
    symmetric: bool = True
    ordered: bool = False
    zero_less_one: bool = True
    indexed: bool = True

    def marker(self, name: str) -> str:
        """The groups of the inputs, which some writers leave out where they follow each other, else the codes."""
        return _beside(name, "g_idx" if self.indexed else "qweight")

    def stored(self, name: str, shape: Shape) -> tuple[Stored, ...]:
        """Codes, zero points, scales and, where there is one, the index of groups."""
        outputs, inputs = shape
        groups = groups_of(inputs, self.group or inputs)
        index = [Stored(_beside(name, "g_idx"), (inputs,), ("I32",))] if self.indexed else []
        return (
            Stored(_beside(name, "qweight"), (-(-inputs // 8), outputs), ("I32",)),
            Stored(_beside(name, "qzeros"), (groups, -(-outputs // 8)), ("I32",)),
            Stored(_beside(name, "scales"), (groups, outputs), FLOATS),
            *index,
        )

    def targets(self, shape: Shape, device: torch.device) -> tuple[Tensor, ...]:
        """Scales in float32, the others as they are stored. Raises ValueError unless 8 divides O and I."""
        whole_words(shape[0], "outputs"), whole_words(shape[1], "inputs")
        dtypes = (torch.int32, torch.int32, torch.float32, torch.int32)
        stored = self.stored("", shape)
        return tuple(
            torch.empty(one.shape, dtype=dtype, device=device) for one, dtype in zip(stored, dtypes, strict=False)
        )

    def matrix(self, targets: tuple[Tensor, ...], dtype: torch.dtype) -> Int4Groups:
        """As in `Encoding`."""
        words_WO, words_GW, scales_GO, *index = targets
        if self.zero_less_one:
            words_GW.add_(ONE_IN_EACH)
        codes_OP, inputs = as_bytes(words_WO.t()), 8 * len(words_WO)
        zeros_OG = unpacked_nibbles(words_GW).t().contiguous()
        order = index[0] if index else None
        return int4_matrix(codes_OP, scales_GO.t(), dtype, self.group or inputs, inputs, zeros_OG, order)

    def packed_bytes(self, shape: Shape) -> int:
        """As in `Encoding`, with scales published in 16 bits."""
        outputs, inputs = shape
        return int4_bytes(outputs, inputs, self.group or inputs, not self.symmetric, self.ordered)


def _beside(name: str, what: str) -> str:
    """The tensor that stands in the weight's place."""
    return name.removesuffix("weight") + what
