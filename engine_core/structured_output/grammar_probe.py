"""Tries grammars in a child process, which can be killed: some of them would compile for hours.

llguidance bounds most of its work, but not all (proving that an intersection of regular expressions is empty takes
exponential time), and nothing can interrupt it inside this process. So `grammar_compiler` compiles here only what a
child has compiled within the limits before. One child for each thread of the compiler, started by its first grammar.
Invariant: `check` returns within the limit, and a child that exceeded it is dead.

The child is `python -m engine_core.structured_output.grammar_probe TOKENIZER VOCAB_SIZE EOS_TOKEN_ID…`: for each line
on stdin, a JSON string with a grammar of llguidance, it writes one with its error message, empty where it is one.
"""

import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from llguidance import LLTokenizer

from engine_core.structured_output.grammar import CompiledGrammar, GrammarError
from ipc.process import LAUNCHER_PID_VARIABLE, die_with_parent

TIME_LIMIT_S = 3.0
"""A schema of a thousand properties takes 0.2 s."""
MEMORY_LIMIT_BYTES = 4 * 2**30
"""Of address space, of which the child itself uses half a GiB."""
_START_LIMIT_S = 60.0
_NICENESS = 10
"""The model comes first."""


class GrammarProbe:
    """One child process; for one thread at a time."""

    def __init__(
        self,
        tokenizer_file: Path,
        vocab_size: int,
        eos_token_ids: tuple[int, ...],
        *,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        arguments = [str(tokenizer_file), str(vocab_size), *map(str, eos_token_ids)]
        self._command = [sys.executable, "-P", "-m", __name__, *arguments]
        self._time_limit_s = time_limit_s
        self._child: subprocess.Popen[bytes] | None = None

    def check(self, source: str) -> None:
        """Compile a grammar in the child, which is started where there is none.

        Raises:
            GrammarError: it is no grammar, or takes more time or memory than it may; for its user.
            OSError: the child cannot be started.
        """
        child = self._child or self._start()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(source).encode() + b"\n")
            child.stdin.flush()
            answer = self._read_line(child, self._time_limit_s)
        except BrokenPipeError:
            answer = b""
        if answer is None:
            self.close()
            raise GrammarError(f"the grammar takes longer than {self._time_limit_s:.0f} s to compile")
        if not answer:
            self.close()
            raise GrammarError("the grammar takes too much memory to compile")
        message = json.loads(answer)
        if message:
            raise GrammarError(message)

    def close(self) -> None:
        """Kill the child, if there is one; a later `check` starts another."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, LAUNCHER_PID_VARIABLE: str(os.getpid()), "OPENBLAS_NUM_THREADS": "1"}
        child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._child = child
        if not self._read_line(child, _START_LIMIT_S):
            self.close()
            raise OSError("the process that tries grammars does not start")
        return child

    @staticmethod
    def _read_line(child: "subprocess.Popen[bytes]", limit_s: float) -> bytes | None:
        """The next line of the child; empty where it has died, None where it takes too long."""
        assert child.stdout is not None
        deadline, line = time.monotonic() + limit_s, b""
        while not line.endswith(b"\n"):
            if not select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            received = os.read(child.stdout.fileno(), 65_536)
            if not received:
                return b""
            line += received
        return line


def load_tokenizer(tokenizer_file: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """The tokenizer as llguidance needs it; `vocab_size` is the model's."""
    try:
        return LLTokenizer(str(tokenizer_file), n_vocab=vocab_size, eos_token=list(eos_token_ids))
    except ValueError:  # the tokenizer knows tokens past the model's vocabulary, which a mask then leaves out
        return LLTokenizer(str(tokenizer_file), eos_token=list(eos_token_ids))


def main() -> None:
    """The child."""
    die_with_parent()
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tokenizer_file, vocab_size, *eos_token_ids = sys.argv[1:]
    tokenizer = load_tokenizer(Path(tokenizer_file), int(vocab_size), [int(item) for item in eos_token_ids])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    answer = '""'  # ready
    while True:
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return
        try:
            CompiledGrammar(tokenizer, json.loads(line))
            answer = '""'
        except GrammarError as error:
            answer = json.dumps(str(error))


if __name__ == "__main__":
    main()
