"""The listening sockets of a server: bound once by the launcher, before anything slow, and inherited by the frontends.

There is one that all of them share, or with `--frontend-ports` one for each.

There is no SO_REUSEPORT: a second server on the same port is refused instead of sharing it, and no connection is
stranded on a frontend that stopped. The launcher's own copy keeps the port while frontends are replaced: connections
that come meanwhile wait for the next one.
"""

import errno
import socket
import time
from contextlib import ExitStack

from ipc.errors import ConfigError

BACKLOG = 2048
_RETRY_S = 1.0
"""How long a taken port is tried again: the children of a killed launcher need a moment to let go of it."""
_WILDCARDS = ("0.0.0.0", "::", "")


def bind_listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """Bind and listen on so many ports, `port` and those after it; port 0 takes free ones.

    Raises:
        ConfigError: as `bind_listener`; none of them is bound then.
    """
    with ExitStack() as bound:
        ports = range(port, port + count) if port else [0] * count
        listeners = [bound.enter_context(bind_listener(host, one)) for one in ports]
        bound.pop_all()
    return listeners


def bind_listener(host: str, port: int) -> socket.socket:
    """Bind and listen on the first address of `host` that this machine has; port 0 takes a free one.

    It listens at once, since Linux lets a second socket bind where the first does not listen yet.

    Raises:
        ConfigError: the host has no address here, or the port is taken or not ours to take.
    """
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot listen on {host}: {getattr(error, 'strerror', None) or error}") from error
    deadline = time.monotonic() + _RETRY_S
    while True:
        error_numbers = []
        for family, _, _, _, address in addresses:
            listener = socket.socket(family, socket.SOCK_STREAM)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                listener.listen(BACKLOG)
                return listener
            except OSError as error:
                listener.close()
                error_numbers.append(error.errno)
                if error.errno == errno.EADDRINUSE:
                    break
        if error_numbers[-1] != errno.EADDRINUSE or time.monotonic() > deadline:
            raise ConfigError(_reason(host, port, error_numbers[-1]))
        time.sleep(0.1)


def port_of(listener: socket.socket) -> int:
    """The port that it is bound to."""
    return int(listener.getsockname()[1])


def url_of(host: str, port: int) -> str:
    """`http://HOST:PORT`, with brackets around an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def local_url_of(host: str, port: int) -> str:
    """The same as seen from this machine: a wildcard address becomes localhost."""
    return url_of("localhost" if host in _WILDCARDS else host, port)


def _reason(host: str, port: int, error_number: int | None) -> str:
    if error_number == errno.EADDRINUSE:
        return f"port {port} on {host} is in use (use another --port; `fast-inference doctor` says who has it)"
    if error_number == errno.EACCES:
        return f"port {port} on {host} needs privileges (use --port with one above 1023)"
    return f"cannot listen on {host}: this machine has no such address (use another --host)"
