"""Under which names a server answers: the Host header, which a client chooses.

Nothing here decides by it but whether to answer at all: every other decision goes by the path that the router sees.
A web page can be made to call a server on its reader's own machine, under a name of the page's author that suddenly
means 127.0.0.1 (DNS rebinding). Where only loopback and no API key stand between such a page and the model, names that
anyone can register are refused unless `--allowed-hosts` lists them. Called by `http_protocol.py` for each request.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence

from frontend.errors import HostNotAllowedError, MalformedRequestError
from ipc.config import AccessConfig

_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_LOCAL_SUFFIXES = (".localhost", ".internal")
"""Top-level domains that nobody can register (RFC 6761; reserved by ICANN)."""
ANY_HOST = "*"


class HostPolicy:
    """Which Host headers are answered."""

    def __init__(self, config: AccessConfig, *, is_local: bool) -> None:
        """`is_local` says that only this machine can connect."""
        names = {name.lower().rstrip(".") for name in config.allowed_hosts}
        is_guarded = bool(names) or (is_local and not config.api_key)
        self._is_open = ANY_HOST in names or not is_guarded
        own_name = socket.gethostname().lower()
        self._names = names | {own_name, f"{own_name}.local"}

    def check(self, hosts: Sequence[bytes], *, is_required: bool) -> None:
        """Take the Host headers of one request.

        Raises:
            MalformedRequestError: there are several, none where one `is_required`, or it is no host.
            HostNotAllowedError: the server does not answer under this name.
        """
        if len(hosts) != 1:
            if hosts or is_required:
                raise MalformedRequestError("A request must have exactly one Host header.")
            return
        match = _HOST.fullmatch(hosts[0].rstrip(b" \t"))  # no part of the value; the parser leaves it there
        if match is None:
            raise MalformedRequestError("The Host header must be a name or an address, with or without a port.")
        if not self._is_open and not self._is_allowed(match[1].decode("ascii").lower().rstrip(".")):
            raise HostNotAllowedError(
                "This server does not answer under the name in the Host header; --allowed-hosts NAME adds one."
            )

    def _is_allowed(self, name: str) -> bool:
        """Names without a dot are no public ones: they come from the machine, or from its network's search list."""
        return "." not in name or name in self._names or name.endswith(_LOCAL_SUFFIXES) or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
