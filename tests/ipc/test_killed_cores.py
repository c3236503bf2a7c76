"""A client whose cores are killed while messages arrive, in a process of its own: libzmq might end it."""

import subprocess
import sys

from tests.processes import ROOT

NUM_KILLED = 25
"""Where messages had several frames, one of 15 was enough."""
READER = """
import asyncio, sys
from pathlib import Path
from ipc.client import EngineClient
from ipc.messages import ClientRole

async def read(path, last_epoch):
    client = EngineClient(path, name="reader", role=ClientRole.FRONTEND)
    await client.start()
    while client.welcome is None or client.welcome.epoch < last_epoch:
        await asyncio.sleep(0.01)
    await client.close()

asyncio.run(read(Path(sys.argv[1]), int(sys.argv[2])))
"""


def test_no_killed_core_ends_its_client(tmp_path):
    """libzmq 4.3.5 aborts where a connection ends while a message of several frames is read (ipc/codec.py)."""
    path = str(tmp_path / "core.sock")
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, path, str(NUM_KILLED + 1)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    cores = subprocess.Popen(
        [sys.executable, "-m", "tests.flooding_cores", path, str(NUM_KILLED)], cwd=ROOT, stdin=subprocess.PIPE
    )
    try:
        _, log = reader.communicate(timeout=60)
        assert reader.returncode == 0, log[-1000:]
    finally:
        reader.kill()
        reader.communicate()
        cores.communicate()
    assert cores.returncode == 0
