#!/usr/bin/env python3
"""Whether the server answers as its OpenAPI document says, whatever it is sent: schemathesis against the fake model.

    scripts/check_api_schema.py                 # 5,000 cases
    scripts/check_api_schema.py --count 1000 --seed 7

Starts a server that asks for an API key, and sends it valid and invalid data made from the document, NUL characters
included. Exits 1 for a 5xx, an answer that the document does not describe, invalid data that is accepted, a route that
forgets the key, an answer slower than 2 s, or a process of the server that died. `positive_data_acceptance` is left
out: no JSON schema can say that a prompt has to fit the context, or that 1.0 is no integer here.
schemathesis lives in an environment of its own, `.venv-schemathesis`, made at the first start.
"""

import argparse
import collections
import json
import math
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.servers import ROOT, Server

SCHEMATHESIS = "schemathesis==4.32.5"
ENVIRONMENT = ROOT / ".venv-schemathesis"
MAX_RESPONSE_S = 2
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
KEY = "schemathesis"
_ACCESS = re.compile(r"frontend\.access: \S+ (?P<path>\S+) (?P<status>\d{3}) (?P<ms>[\d.]+) ms ")
_NUM_CASES = re.compile(r"(\d+) generated")


def install() -> Path:
    """The command `schemathesis`, installed if it is not there."""
    command = ENVIRONMENT / "bin/schemathesis"
    stamp = ENVIRONMENT / f"stamp-{SCHEMATHESIS}"
    if not stamp.exists():
        print(f"installing {SCHEMATHESIS} into {ENVIRONMENT}", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True)
        pip = [str(ENVIRONMENT / "bin/pip"), "install", "-q", "--disable-pip-version-check", SCHEMATHESIS]
        subprocess.run(pip, check=True)
        stamp.touch()
    return command


def document_of(server: Server) -> dict[str, Any]:
    """The server's document, with the names of its models in place of any string: other names are only 404."""
    with server.http() as http:
        document: dict[str, Any] = http.get("/openapi.json", headers={"x-api-key": KEY}).raise_for_status().json()
        models = http.get("/v1/models", headers={"x-api-key": KEY}).raise_for_status().json()
    names = [model["id"] for model in models["data"]]
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Request") and "model" in schema["properties"]:
            schema["properties"].pop("timeout", None)  # a short one is a 504, as it should be
            is_required = "model" in schema.get("required", ())
            schema["properties"]["model"] = {"enum": names if is_required else [*names, None]}
    return document


def run_schemathesis(server: Server, folder: Path, count: int, seed: int) -> tuple[int, int]:
    """(exit status, number of cases)."""
    document = document_of(server)
    file = folder / "openapi.json"
    file.write_text(json.dumps(document))
    (folder / "schemathesis.toml").write_text(
        '[checks]\nnegative_data_rejection.expected-statuses = ["400", "401", "404", "405", "413", "415"]\n'
    )
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    num_with_body = sum("requestBody" in operation for operation in operations)
    command = [str(install()), "run", str(file), "--url", server.url, "--header", f"Authorization: Bearer {KEY}"]
    command += ["--phases", "examples,coverage,fuzzing", "--mode", "all", "--checks", ",".join(CHECKS)]
    command += ["--max-examples", str(math.ceil(count / num_with_body)), "--generation-allow-x00", "true"]
    command += ["--max-response-time", str(MAX_RESPONSE_S), "--request-timeout", "30", "--seed", str(seed)]
    command += ["--continue-on-failure", "--warnings", "off", "--generation-database", "none", "--no-color"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    match = _NUM_CASES.search(done.stdout)
    return done.returncode, int(match[1]) if match else 0


def answers_of(server: Server) -> tuple[collections.Counter[str], float]:
    """How often each status was answered, and the slowest answer in seconds, by the server's own log."""
    matches = [match for line in server.access_lines() if (match := _ACCESS.search(line))]
    return collections.Counter(match["status"] for match in matches), max(float(match["ms"]) for match in matches) / 1e3


def main() -> int:
    """Start, check, print; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description="the OpenAPI document against the server")
    parser.add_argument("--count", type=int, default=5000, help="cases, all operations together")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server(folder, "fake", "--max-model-len", "256", FAST_INFERENCE_API_KEY=KEY)
        try:
            pids = server.child_pids
            status, num_cases = run_schemathesis(server, folder, arguments.count, arguments.seed)
            answers, slowest_s = answers_of(server)
            have_died = server.child_pids != pids
        finally:
            server.close()
    num_5xx = sum(count for status_code, count in answers.items() if status_code.startswith("5"))
    print(f"{num_cases} cases; answers by status: {dict(sorted(answers.items()))}; slowest {slowest_s:.2f} s")
    problems = {
        "schemathesis found failures": status != 0,
        f"fewer than {arguments.count} cases": num_cases < arguments.count,
        f"{num_5xx} answers of 5xx": num_5xx > 0,
        f"an answer took {slowest_s:.2f} s": slowest_s > MAX_RESPONSE_S,
        "a process of the server died": have_died,
    }
    for problem in (text for text, is_there in problems.items() if is_there):
        print(f"PROBLEM: {problem}")
    return int(any(problems.values()))


if __name__ == "__main__":
    sys.exit(main())
