"""guidellm, a load generator, against a running server: six requests, two at a time.

API_KEY=… python tests/clients/guidellm_client.py http://127.0.0.1:8000 smollm2-135m-instruct TOKENIZER_DIR
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Run it and look at its report."""
    url, model, tokenizer_dir = sys.argv[1:]
    key = os.environ.get("API_KEY", "any")
    command = [str(Path(sys.executable).with_name("guidellm")), "run"]
    command += ["--backend", f"kind=openai_http,target={url},model={model},api_key={key}"]
    command += ["--profile", "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=6"]
    command += ["--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=8"]
    command += ["--tokenizer", f"kind=hf_auto,model={tokenizer_dir}"]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        subprocess.run(command, cwd=folder, env=environment, check=True, timeout=300)
        [benchmark] = json.loads((Path(folder) / "benchmarks.json").read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert totals["successful"] == 6, totals
    assert totals["errored"] == 0, totals
    print("ok six requests")


if __name__ == "__main__":
    main()
