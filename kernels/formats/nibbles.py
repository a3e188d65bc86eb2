"""Codes of four bits, two a byte, the earlier in the low four bits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def packed_nibbles(codes_RI: Tensor) -> Tensor:
    """Codes 0..15 (uint8) as bytes [R, I/2], rounded up; a half byte to spare is zero."""
    even_RI = pad(codes_RI, (0, 1)) if codes_RI.shape[1] % 2 else codes_RI
    return even_RI[:, ::2] | even_RI[:, 1::2] << 4


def unpacked_nibbles(bytes_RP: Tensor) -> Tensor:
    """The codes [R, 2P] (uint8) of bytes [R, P], or of 32-bit words, whose lowest four bits are the first code.

    So they are in what publishers call an int32 of eight codes, on a machine whose lowest byte comes first.
    """
    rows = bytes_RP.contiguous().view(torch.uint8)
    return torch.stack((rows & 15, rows >> 4), 2).flatten(1)
