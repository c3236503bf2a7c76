#!/usr/bin/env python3
"""A folder of prompts in, a folder of answers out, on all nodes of a Ray cluster: our engine inside Ray Data.

    .venv/bin/python examples/ray_batch.py prompts/ answers/                       # JSONL or Parquet: {"prompt": "…"}
    .venv/bin/python examples/ray_batch.py prompts/ answers/ --ray-address auto --gpus 1 --cores 8

For your own pipelines. Files in OpenAI's batch format are what `fast-inference run-batch --executor ray` is for: with
that, wrong lines end no job, and the same command goes on where an earlier one ended (docs/batch.md).
"""

import argparse
from pathlib import Path

import ray
import ray.data

from fast_inference import LLM, SamplingParams


class Answerer:
    """One engine; Ray starts so many of them, and hands them batches of rows."""

    def __init__(self, model, threads):
        self.llm = LLM(model, threads=threads)
        self.params = SamplingParams(temperature=0.0, max_tokens=32)

    def __call__(self, rows):
        prompts = [str(prompt) for prompt in rows["prompt"]]
        outputs = self.llm.generate(prompts, self.params, use_tqdm=False)
        answers = [output.outputs[0] for output in outputs]
        return {
            **rows,
            "answer": [answer.text for answer in answers],
            "finish_reason": [answer.finish_reason for answer in answers],
        }


def main():
    """Entry of the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="a folder of .jsonl or .parquet that every node sees")
    parser.add_argument("output", type=Path, help="a folder that every node sees")
    parser.add_argument("--model", help="a folder, a file, a hub id or a name; smollm2-135m-instruct if not given")
    parser.add_argument("--ray-address", default="local", help="of a cluster; 'local' starts a Ray for this program")
    parser.add_argument("--cores", type=int, default=1, help="engines")
    parser.add_argument("--cpus", type=int, default=1, help="of each engine")
    parser.add_argument("--gpus", type=int, default=0, help="of each engine")
    arguments = parser.parse_args()

    ray.init(address=arguments.ray_address)
    files = sorted(arguments.input.iterdir())
    is_parquet = files[0].suffix == ".parquet"
    read = ray.data.read_parquet if is_parquet else ray.data.read_json
    rows = read([str(file.resolve()) for file in files])
    answered = rows.map_batches(
        Answerer,
        fn_constructor_args=(arguments.model, None if arguments.gpus else arguments.cpus),
        batch_size=512,  # as many as the engine has seats for, and more: it sorts out the rest
        concurrency=arguments.cores,
        num_cpus=arguments.cpus,
        num_gpus=arguments.gpus,
    )
    write = answered.write_parquet if is_parquet else answered.write_json
    write(str(arguments.output.resolve()))
    print(f"answers are in {arguments.output}")


if __name__ == "__main__":
    main()
