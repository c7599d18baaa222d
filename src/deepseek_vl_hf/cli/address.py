"""The address at which a command is to be reached."""

import socket


def check_address(host: str, port: int) -> None:
    """Tries an address before a model is loaded for it.

    Raises:
        OSError: nothing can be served there.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        raise OSError(
            f"Nothing can be served at {host}, port {port}: {error.strerror}. Name another --port or --host."
        ) from error
