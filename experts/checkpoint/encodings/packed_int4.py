"""INT4 groups as compressed-tensors packs them (`pack-quantized`): Kimi K2 Thinking, Kimi K2.5, llm-compressor.

Source: https://github.com/vllm-project/compressed-tensors and its checkpoints.
Legend: O outputs, I inputs, G groups.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.encodings.int4_tensors import int4_bytes, int4_matrix
from experts.checkpoint.stored import FLOATS, Shape, Stored
from kernels.formats.groups import groups_of
from kernels.formats.int4_groups import Int4Groups
from kernels.formats.nibbles import unpacked_nibbles


@dataclass(frozen=True, slots=True)
class PackedInt4Encoding(Encoding):
    """Eight codes of a row an int32 [O, I/8], the first in the lowest bits, 8 more than the signed value.

    Scales are [O, G]; zero points, where there are `zeros`, eight outputs an int32 [O/8, G]; `ordered` says that
    `weight_g_idx` names the group of each input. `group` is its size, None a whole row.
    """

    group: int | None
    zeros: bool = False
    ordered: bool = False

    def marker(self, name: str) -> str:
        """Its codes."""
        return f"{name}_packed"

    def stored(self, name: str, shape: Shape) -> tuple[Stored, ...]:
        """Codes, scales and the shape that they make; then zero points and groups, where the format has them."""
        outputs, inputs = shape
        groups = groups_of(inputs, self.group or inputs)
        stored = [
            Stored(self.marker(name), (outputs, -(-inputs // 8)), ("I32",)),
            Stored(f"{name}_scale", (outputs, groups), FLOATS),
            Stored(f"{name}_shape", (2,), ("I64", "I32")),
        ]
        if self.zeros:
            stored.append(Stored(f"{name}_zero_point", (-(-outputs // 8), groups), ("I32",)))
        if self.ordered:
            stored.append(Stored(f"{name}_g_idx", (inputs,), ("I32",)))
        return tuple(stored)

    def targets(self, shape: Shape, device: torch.device) -> tuple[Tensor, ...]:
        """Scales in float32, the others as they are stored."""
        dtypes = {"_packed": torch.int32, "_scale": torch.float32, "_shape": torch.int64}
        return tuple(
            torch.empty(one.shape, dtype=dtypes.get(one.name, torch.int32), device=device)
            for one in self.stored("", shape)
        )

    def matrix(self, targets: tuple[Tensor, ...], dtype: torch.dtype) -> Int4Groups:
        """As in `Encoding`. Also raises ValueError for another `weight_shape` than the codes have."""
        words_OW, scales_OG, shape, *further = targets
        outputs, inputs = shape.tolist()
        if (outputs, -(-inputs // 8)) != tuple(words_OW.shape):
            raise ValueError(f"weight_shape says {[outputs, inputs]}, weight_packed is {list(words_OW.shape)}")
        group = self.group or inputs
        zeros_OG = _zeros(further[0], outputs) if self.zeros else None
        codes_OP = words_OW.view(torch.uint8)[:, : -(-inputs // 2)].contiguous()
        order = further[-1] if self.ordered else None
        return int4_matrix(codes_OP, scales_OG, dtype, group, inputs, zeros_OG, order)

    def packed_bytes(self, shape: Shape) -> int:
        """As in `Encoding`, with scales published in 16 bits."""
        outputs, inputs = shape
        return int4_bytes(outputs, inputs, self.group or inputs, self.zeros, self.ordered)


def _zeros(words_WG: Tensor, outputs: int) -> Tensor:
    """Zero points [O, G], as unsigned codes."""
    return unpacked_nibbles(words_WG.t())[:, :outputs].t().contiguous()
