"""INT4 groups as AutoAWQ writes them for its `gemm` kernel.

Source: AWQ (arXiv 2306.00978) and https://github.com/casper-hansen/AutoAWQ.
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
from kernels.formats.nibbles import packed_nibbles, unpacked_nibbles

# Where in a word each of its eight outputs lies: the word has them in the order 0, 2, 4, 6, 1, 3, 5, 7.
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True, slots=True)
class AwqEncoding(Encoding):
    """Eight outputs an int32, interleaved: codes [I, O/8] and zero points [G, O/8]; scales [G, O].

    `group` is its size, None a whole row.
    """

    group: int | None

    def marker(self, name: str) -> str:
        """Its codes."""
        return _beside(name, "qweight")

    def stored(self, name: str, shape: Shape) -> tuple[Stored, ...]:
        """Codes, zero points and scales."""
        outputs, inputs = shape
        groups, words = groups_of(inputs, self.group or inputs), -(-outputs // 8)
        return (
            Stored(self.marker(name), (inputs, words), ("I32",)),
            Stored(_beside(name, "qzeros"), (groups, words), ("I32",)),
            Stored(_beside(name, "scales"), (groups, outputs), FLOATS),
        )

    def targets(self, shape: Shape, device: torch.device) -> tuple[Tensor, ...]:
        """Scales in float32, the others as they are stored. Raises ValueError unless 8 divides O."""
        whole_words(shape[0], "outputs")
        codes, zeros, scales = (one.shape for one in self.stored("", shape))
        words = (torch.empty(size, dtype=torch.int32, device=device) for size in (codes, zeros))
        return *words, torch.empty(scales, dtype=torch.float32, device=device)

    def matrix(self, targets: tuple[Tensor, ...], dtype: torch.dtype) -> Int4Groups:
        """As in `Encoding`."""
        words_IW, words_GW, scales_GO = targets
        inputs = len(words_IW)
        codes_OP = packed_nibbles(_in_order(words_IW).t()).contiguous()
        zeros_OG = _in_order(words_GW).t().contiguous()
        return int4_matrix(codes_OP, scales_GO.t(), dtype, self.group or inputs, inputs, zeros_OG)

    def packed_bytes(self, shape: Shape) -> int:
        """As in `Encoding`, with scales published in 16 bits."""
        outputs, inputs = shape
        return int4_bytes(outputs, inputs, self.group or inputs, True, False)


def _in_order(words_RW: Tensor) -> Tensor:
    """The codes [R, O] of words, in the order of outputs."""
    codes_RWN = unpacked_nibbles(words_RW).view(*words_RW.shape, 8)
    return codes_RWN[:, :, torch.tensor(PLACES, device=words_RW.device)].flatten(1)


def _beside(name: str, what: str) -> str:
    """The tensor that stands in the weight's place."""
    return name.removesuffix("weight") + what
