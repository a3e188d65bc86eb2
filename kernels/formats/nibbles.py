"""Codes of four bits, two a byte, the earlier in the low four bits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def packed_nibbles(codes_RI: Tensor) -> Tensor:
    """Codes 0..15 (uint8) as bytes [R, I/2], rounded up; a half byte to spare is zero."""
    even_RI = pad(codes_RI, (0, 1)) if codes_RI.shape[1] % 2 else codes_RI
    return even_RI[:, ::2] | even_RI[:, 1::2] << 4


def unpacked_nibbles(words_RW: Tensor) -> Tensor:
    """The codes (uint8) of bytes, two of each, or of 32-bit words, eight of each: [R, 2W] or [R, 8W]."""
    bytes_RP = as_bytes(words_RW)
    return torch.stack((bytes_RP & 15, bytes_RP >> 4), 2).flatten(1)


def as_bytes(words_RW: Tensor) -> Tensor:
    """The bytes of each row, the lowest of a word first, as on every machine that torch runs on.

    So what publishers call eight codes in an int32, the first in the lowest bits, is the order of ours.
    """
    # A single column has any strides and still counts as contiguous, but not as bytes.
    even = words_RW.is_contiguous() and words_RW.stride(1) == 1
    return (words_RW if even else words_RW.clone(memory_format=torch.contiguous_format)).view(torch.uint8)
