"""scripts/check_router.py: two servers behind vllm-router, one of them killed and started again."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROUTER = Path(sys.executable).parent / "vllm-router"


def test_no_request_is_lost_when_one_of_two_servers_dies():
    command = [sys.executable, str(ROOT / "scripts/check_router.py"), "--router", str(ROUTER), "--requests", "48"]
    done = subprocess.run([*command, "--tokens", "8"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ok\n") == 4
