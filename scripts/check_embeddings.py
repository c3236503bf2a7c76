#!/usr/bin/env python3
"""Whether a running server gives the vectors that sentence-transformers gives, over HTTP, with a real model.

    python -m venv /tmp/reference && /tmp/reference/bin/pip install sentence-transformers
    fast-inference pull all-minilm-l6-v2
    fast-inference serve all-minilm-l6-v2
    scripts/check_embeddings.py --url http://127.0.0.1:8000 --reference-python /tmp/reference/bin/python \\
        --model-dir ~/.cache/fast-inference/models/all-minilm-l6-v2

The reference runs in a Python of its own, in fp32 on the CPU, so sentence-transformers is no dependency here. The texts
are of all lengths up to the model's limit, with words, numbers, code and other scripts; they are sent one by one, all
in one body, and from several connections at once. Exits 1 if a number is off by more than `--tolerance`. `--speed` also
times so many short texts in bodies of 100, which is a rough figure and no benchmark.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

Vector = list[float]

TIMEOUT_S = 300.0
CONNECTIONS = 16
BODY_TEXTS = 100
WORDS = (
    *("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"),
    *("while", "seven", "grey", "ships", "of", "Athens", "sail", "home", "now"),
)
SHORT = [
    "a",
    ".",
    "Hi",
    "42",
    "Hello, world!",
    "THE END",
    "e = mc²",
    "a\tb\nc",
    "  leading and trailing  ",
    "[MASK] [SEP]",
]
UNICODE = [
    "Größe, Straße, naïve, façade, coöperate",
    "日本語の文章です。東京は日本の首都。",
    "Привет, как дела?",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "👩🏽‍🚀🚀 to the 🌙, 100 %!",
    "ﬁne ligature, Å vs Å, zero\u200bwidth, soft\u00adhyphen",
    "한국어 문장",
    "\u0301combining first",
]
SENTENCES = [
    "The capital of France is Paris.",
    "What is the capital of France?",
    "def add(a, b):\n    return a + b",
    "SELECT name FROM users WHERE age > 30;",
    "Floccinaucinihilipilification is a long word, and antidisestablishmentarianism another.",
    "x" * 150,
    "https://example.com/a/path?query=1&other=%20#fragment",
]
REFERENCE = """
import json, sys
import torch
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", model_kwargs={"dtype": torch.float32})
texts = json.load(sys.stdin)
ids = [model.tokenizer(text, truncation=False)["input_ids"] for text in texts]
vectors = [model.encode([text], convert_to_numpy=True)[0].tolist() for text in texts]
print(json.dumps({"limit": model.max_seq_length, "lengths": list(map(len, ids)), "vectors": vectors}))
"""
"""Alone each, so that nothing is padded in the reference either."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What sentence-transformers says of texts that fit into the model."""

    texts: list[str]
    lengths: list[int]
    vectors: list[Vector]
    limit: int


def texts_of_all_lengths() -> list[str]:
    """Short ones, sentences, other scripts, and up to 300 words."""
    lengths = [*range(2, 40, 3), 50, 64, 80, 100, 128, 150, 180, 200, 230, *range(236, 260, 2), 300]
    return [*SHORT, *UNICODE, *SENTENCES, *(" ".join(WORDS[(3 * n + i) % 18] for i in range(n)) for n in lengths)]


def ask_reference(python: str, model_dir: Path, texts: Sequence[str]) -> Reference:
    """Vectors of the texts that are not cut by the model's limit."""
    result = subprocess.run(
        [python, "-c", REFERENCE, str(model_dir)],
        input=json.dumps(texts),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer = json.loads(result.stdout.splitlines()[-1])
    kept = [index for index, length in enumerate(answer["lengths"]) if length <= answer["limit"]]
    return Reference(
        [texts[index] for index in kept],
        [answer["lengths"][index] for index in kept],
        [answer["vectors"][index] for index in kept],
        answer["limit"],
    )


async def embed(http: httpx.AsyncClient, model: str, texts: Sequence[str]) -> list[Vector]:
    """Vectors of one body."""
    answer = await http.post("/v1/embeddings", json={"model": model, "input": texts})
    if answer.status_code != 200:
        raise SystemExit(f"error: {answer.status_code}: {answer.text[:300]}")
    return [item["embedding"] for item in answer.json()["data"]]


async def at_once(http: httpx.AsyncClient, model: str, texts: Sequence[str]) -> list[Vector]:
    """The same from all connections together, each with every `CONNECTIONS`-th text."""
    parts = await asyncio.gather(
        *(embed(http, model, texts[start::CONNECTIONS]) for start in range(min(CONNECTIONS, len(texts))))
    )
    vectors: list[Vector] = [[]] * len(texts)
    for start, part in enumerate(parts):
        vectors[start::CONNECTIONS] = part
    return vectors


def largest_difference(vectors: Sequence[Vector], expected: Sequence[Vector]) -> float:
    """Of any two numbers at the same place; infinite where the vectors have other lengths."""
    if [len(vector) for vector in vectors] != [len(vector) for vector in expected]:
        return float("inf")
    return max(
        abs(one - other)
        for ours, theirs in zip(vectors, expected, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    )


async def check(arguments: argparse.Namespace, reference: Reference) -> int:
    """Compare in all three ways; returns the exit status."""
    limits = httpx.Limits(max_connections=CONNECTIONS)
    async with httpx.AsyncClient(base_url=arguments.url, timeout=TIMEOUT_S, limits=limits) as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]
        shortest, longest = min(reference.lengths), max(reference.lengths)
        print(f"{model}: {len(reference.texts)} texts of {shortest} to {longest} tokens (limit {reference.limit})")
        alone = [(await embed(http, model, [text]))[0] for text in reference.texts]
        ways = {
            "one by one": alone,
            "in one body": await embed(http, model, reference.texts),
            f"{CONNECTIONS} at once": await at_once(http, model, reference.texts),
        }
        differences = {way: largest_difference(vectors, reference.vectors) for way, vectors in ways.items()}
        for way, difference in differences.items():
            print(f"{way}: largest difference {difference:.2e}")
        if arguments.speed:
            await time_texts(http, model, arguments.speed)
    return int(max(differences.values()) > arguments.tolerance)


async def time_texts(http: httpx.AsyncClient, model: str, count: int) -> None:
    """Print how many short texts a second are embedded."""
    texts = [f"{WORDS[number % 18]} {number} {' '.join(WORDS[number % 7 : number % 7 + 8])}" for number in range(count)]
    began_at = time.perf_counter()
    await asyncio.gather(
        *(embed(http, model, texts[start : start + BODY_TEXTS]) for start in range(0, count, BODY_TEXTS))
    )
    seconds = time.perf_counter() - began_at
    print(f"{count} texts of about 12 tokens in {seconds:.2f} s: {count / seconds:.0f} texts/s")


def main() -> int:
    """Entry of the script; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server (default: %(default)s)")
    parser.add_argument("--reference-python", required=True, help="a Python that has sentence-transformers")
    parser.add_argument("--model-dir", type=Path, required=True, help="folder of the model that is served")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="(default: %(default)s)")
    parser.add_argument("--speed", type=int, default=0, metavar="N", help="also time so many short texts")
    arguments = parser.parse_args()
    texts = texts_of_all_lengths()
    reference = ask_reference(arguments.reference_python, arguments.model_dir.expanduser(), texts)
    return asyncio.run(check(arguments, reference))


if __name__ == "__main__":
    sys.exit(main())
