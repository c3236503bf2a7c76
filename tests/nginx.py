"""nginx as a real process on ports and paths of its own: with the file that we ship, or with any other text."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.servers import ROOT
from tests.waiting import wait_until

SHIPPED = ROOT / "configs/nginx.conf"
PROGRAM = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
_TEMPORARY_PATHS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def own_places(config: str, folder: Path, port: int, upstream_ports: Sequence[int]) -> str:
    """A whole configuration with its logs and temporary files in `folder`, and these ports in place of its own."""
    lines = iter(upstream_ports)

    def server_line(match: re.Match[str]) -> str:
        upstream_port = next(lines, None)
        return "" if upstream_port is None else f"server 127.0.0.1:{upstream_port}{match[1]};"

    config = re.sub(r"server (?:localhost|127\.0\.0\.1):\d+([^;]*);", server_line, config)
    config = config.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("/var/log/nginx/", f"{folder}/")
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY_PATHS)
    return config.replace("http {", f"http {{ {temporary}", 1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Nginx:
    """A running nginx; a context manager that ends it."""

    def __init__(self, folder: Path, upstream_ports: Sequence[int], config: str | None = None) -> None:
        """`config` is the text of the shipped file where not given."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        text = SHIPPED.read_text() if config is None else config
        self._file = folder / "nginx.conf"
        self._file.write_text(own_places(text, folder, self.port, upstream_ports))

    def check(self) -> subprocess.CompletedProcess[str]:
        """`nginx -t`."""
        return subprocess.run([*self._command(), "-t"], capture_output=True, text=True, timeout=20)

    def __enter__(self) -> "Nginx":
        with (self._folder / "stderr").open("w") as stderr:
            self._process = subprocess.Popen(self._command("daemon off;"), stderr=stderr)
        try:
            wait_until(self._listens)
        except AssertionError:
            self.__exit__()
            raise AssertionError((self._folder / "stderr").read_text()) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)

    @property
    def log(self) -> str:
        return (self._folder / "access.log").read_text()

    def _command(self, directives: str = "") -> list[str]:
        user = "user root;" if os.getuid() == 0 else ""  # others may not enter the folders of tests
        directives = f"{directives} {user} pid {self._folder}/nginx.pid;"
        log = str(self._folder / "error.log")
        return [PROGRAM, "-e", log, "-p", str(self._folder), "-c", str(self._file), "-g", directives]

    def _listens(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0
