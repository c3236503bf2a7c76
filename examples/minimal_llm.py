#!/usr/bin/env python3
"""Train a tiny MinimalLLM, serve its checkpoint, and chat with it through OpenAI's client: half a minute on a CPU.

    .venv/bin/python examples/minimal_llm.py [--keep FOLDER]

The model learns one short conversation by heart, so its answer shows that what was trained is what is served.
Needs the package `openai` (it comes with `scripts/install dev`).
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import openai

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "Who wrote Faust?"
TEXT = f"<|user|>\n{QUESTION}\n<|assistant|>\nGoethe wrote Faust, and it took him sixty years.\n<|endoftext|>\n" * 40
TRAINING = "--d-model 64 --n-heads 4 --n-layers 2 --d-ff 128 --max-seq-len 64 --vocab-size 320 --batch-size 4"
STEPS = "--generation B --steps 120 --learning-rate 0.005 --report-every 30 --threads 1"


def train(folder):
    """Write `folder/models/final_model1.pt`, and its tokenizer beside it."""
    (folder / "text.txt").write_text(TEXT)
    checkpoint = folder / "models" / "final_model1.pt"
    command = [sys.executable, ROOT / "scripts/train_minimal_llm.py", folder / "text.txt", "--output", checkpoint]
    subprocess.run([*command, *TRAINING.split(), *STEPS.split()], check=True)
    return checkpoint


def serve(checkpoint):
    """Start a server on a free port; returns its process and its URL once it is ready."""
    # Nothing in the file says that generation B turns pairs (2i, 2i + 1): --rope does.
    command = [sys.executable, ROOT / "scripts/launch.py", checkpoint, "--rope", "interleaved"]
    command += [
        "--served-model-name",
        "fast-inference-model",
        "--port",
        "0",
        "--frontends",
        "1",
        "--log-level",
        "warning",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    ready = re.match(r"ready: (\S+)", server.stdout.readline())
    if ready is None:
        sys.exit(server.wait() or 1)
    return server, ready[1]


def chat(url):
    """Ask once for the whole answer, and once for a stream."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="dummy") as client:
        request = {
            "model": "fast-inference-model",
            "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0,
        }
        answer = client.chat.completions.create(**request, max_tokens=30)
        print(f"{QUESTION}\n{answer.choices[0].message.content}", end="")
        print(
            f"(finish_reason: {answer.choices[0].finish_reason}, {answer.usage.total_tokens} tokens)\nStreamed: ",
            end="",
        )
        with client.chat.completions.create(**request, max_tokens=30, stream=True) as stream:
            for chunk in stream:
                print(chunk.choices[0].delta.content or "", end="", flush=True)


def run(folder):
    server, url = serve(train(folder))
    try:
        chat(url)
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for text, checkpoint and tokenizer")
    folder = parser.parse_args().keep
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        return run(folder)
    with tempfile.TemporaryDirectory() as scratch:
        return run(Path(scratch))


if __name__ == "__main__":
    main()
