"""`fast-inference completion bash|zsh|tcsh`: a script with which a shell completes verbs, flags, values and files.

shtab makes it of the parser itself, so that it knows every flag. What a flag takes is read from how its help shows it
(`FILE`, `DIR`, `{a,b}`); models are completed from a list that the shell makes by itself, without starting Python.
"""

import argparse
from collections.abc import Mapping

from fast_inference.flags import FlagParser

_SHELLS = ("bash", "zsh", "tcsh")
_FILE_METAVARS = ("FILE", "FILE.json", "FILE.jsonl", "FILE.png")
_FOLDER_METAVARS = ("DIR", "FOLDER", "RUN_DIR|URL")
_Completers = Mapping[str, str | dict[str, str]]
"""What completes a value, by shell."""
_MODEL_DESTS = ("model", "model_argument", "tokenizer")
_HUB_IDS = (
    'for repository in "${HF_HUB_CACHE:-${HF_HOME:-$HOME/.cache/huggingface}/hub}"/models--*/; do'
    ' [ -d "$repository" ] || continue; repository="${repository%/}"; repository="${repository##*/models--}";'
    ' echo "${repository/--//}"; done'
)
"""For bash and zsh alike, in which a variable named `path` would be PATH."""
_BASH_MODELS = """
_fast_inference_models() {
    compgen -W "NAMES $(IDS)" -- "$1"
    compgen -f -- "$1"
}
"""
_ZSH_MODELS = """
_fast_inference_models() {
    local -a names
    names=(NAMES ${(f)"$(setopt local_options null_glob; IDS)"})
    _alternative "models:model:compadd -a names" "files:file:_files"
}
"""
_EXAMPLES = """\
examples:
  eval "$(fast-inference completion bash)"                     now, or in ~/.bashrc
  fast-inference completion bash >~/.local/share/bash-completion/completions/fast-inference
  fast-inference completion zsh >"${fpath[1]}/_fast-inference"
  fast-inference completion tcsh >/etc/profile.d/fast-inference.completion.csh
"""


def add_completion(commands: "argparse._SubParsersAction[FlagParser]", root: FlagParser) -> None:
    """Add the command to the command line of `root`."""
    parser = commands.add_parser(
        "completion",
        usage="fast-inference completion {bash,zsh,tcsh}",
        help="print a script with which a shell completes this command",
        description="Print a script with which a shell completes verbs, flags, their values, models and files.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell")

    def run(namespace: argparse.Namespace) -> int:
        print(completion_script(root, namespace.shell))
        return 0

    parser.set_defaults(run=run)


def completion_script(parser: FlagParser, shell: str) -> str:
    """The script; what the actions of the parser take is noted in them."""
    import shtab

    from fast_inference.wheel_models import WHEEL_MODELS
    from ipc.config import FAKE_MODEL

    names = " ".join((FAKE_MODEL, *WHEEL_MODELS))
    preambles = {
        name: text.replace("NAMES", names).replace("IDS", _HUB_IDS)
        for name, text in (("bash", _BASH_MODELS), ("zsh", _ZSH_MODELS))
    }
    models = dict.fromkeys(preambles, "_fast_inference_models") | {"tcsh": "f"}
    _note_what_is_taken(parser, models, shtab.FILE, shtab.DIRECTORY)
    script: str = shtab.complete(parser, shell, preamble=preambles.get(shell, ""))
    return script


def _note_what_is_taken(
    parser: argparse.ArgumentParser, models: _Completers, files: _Completers, folders: _Completers
) -> None:
    for action in parser._actions:
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        if isinstance(action, argparse._SubParsersAction):
            for child in {id(child): child for child in action.choices.values()}.values():
                _note_what_is_taken(child, models, files, folders)
        elif action.dest in _MODEL_DESTS and action.nargs != 0:
            action.complete = models  # type: ignore[attr-defined]
        elif metavar in _FILE_METAVARS:
            action.complete = files  # type: ignore[attr-defined]
        elif metavar in _FOLDER_METAVARS:
            action.complete = folders  # type: ignore[attr-defined]
        elif metavar.startswith("{"):
            action.choices = metavar.strip("{}").split(",")
