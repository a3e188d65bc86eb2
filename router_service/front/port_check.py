"""Whether a port is free, where several may bind it: they would share it with a stranger and not notice."""

import socket


def check_free(host: str, port: int) -> None:
    """Find out whether nobody listens there; port 0 is always free. An IPv6 address may be in brackets, as for gRPC.

    Raises:
        OSError: somebody does, or the address is not of this machine.
    """
    if not port:
        return
    try:
        address = host.strip("[]")
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
