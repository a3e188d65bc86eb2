"""Messages between a Front and a router that are none."""

from collections.abc import Callable

import msgspec
import pytest

from router_service.protocol.messages import Cancel, RouterHello, decode_to_front, decode_to_router, encode


@pytest.mark.parametrize(
    ("decode", "written", "tag"),
    [
        (decode_to_router, encode(Cancel(1)), b"cancel"),
        (decode_to_front, encode(RouterHello("r0", 10, 9)), b"hello"),
    ],
)
def test_text_that_is_not_utf8_is_no_message(decode: Callable[[bytes], object], written: bytes, tag: bytes) -> None:
    """msgspec lets the text's own error through; whoever reads a connection ends it at a DecodeError."""
    for broken in (written.replace(tag, b"\xff" + tag[1:]), written.replace(b"type", b"\xc3\x28pe")):
        assert broken != written
        with pytest.raises(msgspec.DecodeError):
            decode(broken)
