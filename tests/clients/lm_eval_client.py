"""lm-eval's `local-completions` against a running server: log-likelihoods (a multiple choice) and generation.

    API_KEY=… python tests/clients/lm_eval_client.py http://127.0.0.1:8000 smollm2-135m-instruct TOKENIZER_DIR

The two tasks and their four questions lie beside this file; nothing is downloaded. Runs in the repository.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Run both tasks and look at what they gave."""
    url, model, tokenizer_dir = sys.argv[1:]
    arguments = (
        f"model={model},base_url={url}/v1/completions,tokenizer={tokenizer_dir},num_concurrent=2,max_length=2048"
    )
    environment = os.environ | {
        "OPENAI_API_KEY": os.environ.get("API_KEY", "any"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("lm_eval")), "--model", "local-completions"]
        command += ["--model_args", arguments, "--tasks", "local_choice,local_generate"]
        command += ["--include_path", "tests/clients", "--output_path", folder, "--log_samples"]
        subprocess.run(command, env=environment, check=True, timeout=300)
        [results] = Path(folder).rglob("results_*.json")
        accuracy = json.loads(results.read_text())["results"]["local_choice"]["acc,none"]
        [samples] = Path(folder).rglob("samples_local_choice_*.jsonl")
        scores = [float(score) for line in samples.open() for score, _ in json.loads(line)["filtered_resps"]]
    assert accuracy >= 0.75, accuracy
    assert len(scores) == 8
    assert all(math.isfinite(score) and score < 0 for score in scores), scores
    print("ok loglikelihood and generate_until")


if __name__ == "__main__":
    main()
