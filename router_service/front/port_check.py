"""Whether a port is free, where several may bind it: they would share it with a stranger and not notice."""

import socket


def check_free(host: str, port: int) -> None:
    """Find out whether nobody listens there; port 0 is always free.

    Raises:
        OSError: somebody does, or the address is not of this machine.
    """
    if not port:
        return
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
