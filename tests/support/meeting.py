"""Two sides of a handshake without sockets, and whoever changes bytes between them."""

from collections.abc import Callable

from experts.transport.trust.handshake import Handshake


def meet(client: Handshake, server: Handshake, between: Callable[[bytes], bytes] = lambda data: data) -> bool:
    """Carry the bytes of each to the other; whether both are proven, which they are not while one waits for more.

    Raises:
        FrameError: one refuses the other.
    """
    pipes = {client: bytearray(), server: bytearray()}
    said: dict[Handshake, object] = {}
    while not (client.proven and server.proven):
        moved = False
        for one, other in ((server, client), (client, server)):
            if one.proven:
                continue
            if said.get(one) is not one.turn:
                said[one], moved = one.turn, True
                pipes[other] += between(one.turn.out) if one.turn.out else b""
            if len(pipes[one]) >= one.turn.want:
                data, pipes[one] = bytes(pipes[one][: one.turn.want]), pipes[one][one.turn.want :]
                one.advance(data)
                moved = True
        if not moved:
            return False
    return True
