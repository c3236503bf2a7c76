"""A server for the length of one benchmark, started with the launcher on a free port and stopped in the end.

Called by `commands.py` where no URL is given. Invariant: when the context is left the server is gone, and the kernel
kills it if this process dies.
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fast_inference.child import child_environment
from fast_inference.ready_message import url_in_ready_line
from ipc.errors import ConfigError
from ipc.process import die_with_parent

_STOP_TIMEOUT_S = 30.0


@contextlib.contextmanager
def own_server(flags: Sequence[str]) -> Iterator[str]:
    """Run `fast-inference serve` with these arguments; gives its base URL once it is ready.

    Raises:
        ConfigError: it was killed before it was ready.
        SystemExit: it could not start, with its exit status; it has said why on stderr.
    """
    with tempfile.TemporaryDirectory(prefix="fast-inference-bench-") as folder:
        command = [sys.executable, "-P", "-m", "fast_inference", "serve", "--port", "0"]
        command += ["--run-dir", str(Path(folder) / "run"), "--log-level", "warning", *flags]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=child_environment(),
            start_new_session=True,
            preexec_fn=die_with_parent,
            text=True,
        )
        try:
            assert process.stdout is not None
            url = url_in_ready_line(process.stdout.readline())
            if url is None:
                if (status := process.wait()) > 0:
                    raise SystemExit(status)
                raise ConfigError("the server ended before it was ready")
            yield url
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
