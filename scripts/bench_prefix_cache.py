#!/usr/bin/env python3
"""How much sooner the first token comes when the prompt's prefix is in the prefix cache.

    scripts/bench_prefix_cache.py --url http://127.0.0.1:8000 [--prefix 600] [--repeats 5]

Each repeat sends two prompts with the same new random prefix and different ends to a running server, one after the
other, and measures the time to the first streamed token. Nothing else should run on the machine.
"""

import argparse
import json
import random
import statistics
import time
import urllib.request

TAIL_TOKENS = 10


def time_to_first_token(url: str, prompt: list[int]) -> tuple[float, int]:
    """Milliseconds to the first token, and the tokens that came from the cache."""
    body = {
        "model": "fast-inference-model",
        "prompt": prompt,
        "max_tokens": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    started_at = time.perf_counter()
    first_ms = None
    with urllib.request.urlopen(request, timeout=120) as response:
        for line in response:
            if first_ms is None and line.startswith(b"data: "):
                first_ms = (time.perf_counter() - started_at) * 1e3
            if b'"usage":{' in line:
                usage = json.loads(line.removeprefix(b"data: "))["usage"]
    assert first_ms is not None
    return first_ms, usage["prompt_tokens_details"]["cached_tokens"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="time to the first token, cold and with a cached prefix")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--prefix", type=int, default=600, help="tokens that two prompts share")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cold, warm = [], []
    for _ in range(arguments.repeats):
        prefix = [random.randrange(1000, 40_000) for _ in range(arguments.prefix)]
        for times in (cold, warm):
            tail = [random.randrange(1000, 40_000) for _ in range(TAIL_TOKENS)]
            elapsed_ms, num_cached = time_to_first_token(arguments.url, prefix + tail)
            times.append(elapsed_ms)
            print(f"{'cold' if times is cold else 'warm'}: {elapsed_ms:7.1f} ms, {num_cached} cached tokens")
    ratio = statistics.median(cold) / statistics.median(warm)
    print(f"median: cold {statistics.median(cold):.1f} ms, warm {statistics.median(warm):.1f} ms: {ratio:.1f}x sooner")


if __name__ == "__main__":
    main()
