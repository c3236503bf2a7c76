"""Runs the blocks of a document as a reader would: in order, in one folder, with servers that stay up beside them.

What a block is, says its language: `bash` and `python` must end well; in `console`, lines that begin with `$ ` are
commands and those behind them what they print, where `…` stands for anything. A comment before a block may say
`<!-- model -->`: with the real small model, as it is written, not with the fake one; or `<!-- not run: REASON -->`.
A line that starts a server (`SERVERS`) is left running until the document ends or another one wants its port. Ports are
replaced by free ones; `scripts/serve` and `.venv/bin/` are those of the interpreter that runs the tests, and install
nothing.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.documents import ROOT
from tests.programs import free_port

LANGUAGES = ("bash", "console", "python")
SERVERS = ("scripts/serve", "fast-inference serve", "-m fast_inference.cli_openai", "examples/custom_endpoint.py")
TALKS_ONLY = ("--help", "--print-config")
LINKED = ("configs", "docs", "examples")
PORTS = ("8000", "9000")
_BLOCK = re.compile(r"^(?:<!-- (.*?) -->\n)?```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between fences."""

    line: int
    """Of the document, where it begins."""
    language: str
    source: str
    uses_model: bool
    reason: str
    """Why it is not run; empty where it is."""


def blocks_of(path: Path) -> list[Block]:
    """All blocks with commands, in order."""
    text = path.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        comment, language, source = match.groups()
        if language in LANGUAGES:
            reason = (comment or "").removeprefix("not run: ") if (comment or "").startswith("not run: ") else ""
            line = text.count("\n", 0, match.start(2)) + 1
            found.append(Block(line, language, source, comment == "model", reason))
    return found


class Reader:
    """Somebody who types what a document says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {port: str(free_port()) for port in PORTS}
        self._servers: dict[str, subprocess.Popen[str]] = {}
        self._make_checkout()

    def run(self, block: Block) -> None:
        """Raises AssertionError where a command fails, or prints something else."""
        source = self._with_free_ports(block.source)
        if block.language == "python":
            self._run([sys.executable, "-c", source], block)
        elif block.language == "console":
            for command, expected in commands_with_output(source):
                printed = self._serve(command, block) if starts_server(command) else self._shell(command, block)
                assert matches(expected, printed), f"{command}\nprinted:\n{printed}\nand not:\n{expected}"
        else:
            for part in parts_of(source):
                if starts_server(part):
                    self._serve(part, block)
                else:
                    self._shell(part, block)

    def close(self) -> None:
        """Stop all servers."""
        for server in self._servers.values():
            end(server)

    def _shell(self, script: str, block: Block) -> str:
        return self._run(["bash", "-euo", "pipefail", "-c", script], block)

    def _run(self, argv: list[str], block: Block) -> str:
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env=self._environment(block),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"line {block.line}: {argv[-1]}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _serve(self, command: str, block: Block) -> str:
        """Start a server instead of the one on its port, and wait until it is ready; returns its first line."""
        [port] = re.findall(r"--port (\d+)", command) or [self.ports["8000"]]
        if port in self._servers:
            end(self._servers.pop(port))
        with (self.folder / "stderr").open("w") as stderr:
            server = subprocess.Popen(
                ["bash", "-c", re.sub(r"\A((?:\w+=\S+ )*)", r"\1exec ", command, count=1)],
                cwd=self.folder,
                env=self._environment(block),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._servers[port] = server
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("ready: "), f"line {block.line}: {command}\n{(self.folder / 'stderr').read_text()}"
        return line

    def _environment(self, block: Block) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
        environment |= {
            "PYTHONPATH": str(ROOT),
            "PATH": f"{self.folder / '.venv/bin'}:{os.environ['PATH']}",
            "TMPDIR": str(self.folder),
            "FAST_INFERENCE_PORT": self.ports["8000"],
            "FAST_INFERENCE_THREADS": "1",  # teams of threads crawl on a busy machine
        }
        if not block.uses_model:
            environment["FAST_INFERENCE_MODEL"] = "fake"
        return environment

    def _with_free_ports(self, source: str) -> str:
        """And nothing that other machines could reach."""
        local = source.replace("0.0.0.0", "127.0.0.1")
        return re.sub(r"(?<=[: ])(8000|9000)\b", lambda found: self.ports[found[1]], local)

    def _make_checkout(self) -> None:
        """What a reader finds in the folder, but for what would install something."""
        for name in LINKED:
            (self.folder / name).symlink_to(ROOT / name)
        programs = {
            "scripts/serve": f'exec {sys.executable} -m fast_inference serve "$@"',
            ".venv/bin/fast-inference": f'exec {sys.executable} -m fast_inference "$@"',
            ".venv/bin/python": f'exec {sys.executable} "$@"',
            ".venv/bin/curl": 'PATH=${PATH#*:} exec curl --fail "$@"',
        }
        for name, line in programs.items():
            program = self.folder / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f"#!/bin/bash\n{line}\n")
            program.chmod(0o755)


def starts_server(command: str) -> bool:
    """True for what runs until somebody stops it."""
    return any(name in command for name in SERVERS) and not any(flag in command for flag in TALKS_ONLY)


def parts_of(script: str) -> Iterator[str]:
    """A script, divided so that each command that starts a server is a part of its own."""
    part = ""
    for line in script.splitlines(keepends=True):
        if starts_server(line.partition("#")[0]) and not part.endswith("\\\n"):
            if part.strip():
                yield part
            yield line.partition(" #")[0].strip()
            part = ""
        else:
            part += line
    if part.strip():
        yield part


def commands_with_output(transcript: str) -> Iterator[tuple[str, str]]:
    """Each command of a transcript, and what it prints."""
    for item in re.split(r"^\$ ", transcript, flags=re.MULTILINE)[1:]:
        command, _, output = item.partition("\n")
        yield command, output


def matches(expected: str, printed: str) -> bool:
    """True if the text is what was expected; `…` stands for any text, also of several lines."""
    pattern = ".*?".join(map(re.escape, expected.strip().split("…")))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def end(server: "subprocess.Popen[str]") -> None:
    """In order, as Ctrl-C does."""
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=20)
