#!/usr/bin/env python3
"""Answers to many prompts from a Python program, without a server; or beside the users of one that runs.

    .venv/bin/python examples/offline_batch.py                                  # a model in this process
    .venv/bin/python examples/offline_batch.py --attach http://127.0.0.1:8000   # the core of a running server

docs/batch.md explains what it does.
"""

import argparse

from fast_inference import LLM, SamplingParams

CAPITALS = ["France", "Japan", "Kenya", "Peru"]


def main():
    """Entry of the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder, a file, a hub id or a name; smollm2-135m-instruct if not given")
    parser.add_argument("--attach", help="run dir or URL of a running server, instead of a model")
    arguments = parser.parse_args()
    greedy = SamplingParams(temperature=0.0, max_tokens=12, stop=["\n"])
    with LLM(arguments.model, attach=arguments.attach) as llm:
        for output in llm.generate([f"The capital of {country} is" for country in CAPITALS], greedy):
            print(f"{output.prompt!r} goes on {output.outputs[0].text!r}")

        conversations = [[{"role": "user", "content": f"Name a river in {country}."}] for country in CAPITALS]
        for output in llm.chat(conversations, SamplingParams(temperature=0.7, seed=1, max_tokens=20, n=2)):
            print("two answers:", [answer.text for answer in output.outputs])

        # Read as answers make room, so that a million of them take no more memory than a hundred.
        prompts = (f"{number} plus {number} is" for number in range(100))
        num_tokens = sum(len(output.outputs[0].token_ids) for output in llm.generate_each(prompts, greedy))
        print(f"100 more answers have {num_tokens} tokens")

        vectors = [output.outputs.embedding for output in llm.embed(CAPITALS)]
        print(f"{len(vectors)} vectors of {len(vectors[0])} numbers")


if __name__ == "__main__":
    main()
