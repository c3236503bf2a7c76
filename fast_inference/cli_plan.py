"""`fast-inference plan MODEL`: what a start with these settings would allocate, without loading anything.

The numbers come from `engine_core/memory_plan.py`, the function with which a core plans, and the model is looked for
where `serve` looks for it, but never downloaded or converted. Invariant: neither torch nor weights are read, so that it
answers within two seconds; only where there is the driver of a GPU, torch is asked about it.
"""

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from fast_inference.flags import FlagParser, add_setting_flag, add_setting_flags, given_flags
from ipc.config import FAKE_MODEL, CacheConfig, LauncherConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError

if TYPE_CHECKING:
    from engine_core.memory_plan import MemoryPlan, ModelPlan
    from fast_inference.settings import Settings


_EXAMPLES = """\
examples:
  fast-inference plan
  fast-inference plan models/mine --max-model-len 4096 --quantization int8
  fast-inference plan --cores 2
"""


def add_plan(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "plan",
        argument_default=argparse.SUPPRESS,
        usage="fast-inference plan [MODEL] [flags]",
        help="show what a start would allocate",
        description="Show what `serve` with the same settings would allocate on this machine as it is now: weights, "
        "KV cache, longest request and concurrency. Loads nothing. Exit status 1 where it would not fit.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", default=False, help="print JSON; sizes in bytes (default: no)")
    add_setting_flag(parser, LauncherConfig, "cores")
    add_setting_flags(parser, (ModelConfig, CacheConfig, SchedulerConfig))

    def run(namespace: argparse.Namespace) -> int:
        from fast_inference.settings import resolve_settings

        settings = resolve_settings(given_flags(parser, namespace))
        plan = plan_for(settings)
        print(json.dumps(plan_as_json(settings, plan), indent=2) if namespace.json else plan_as_text(settings, plan))
        return 0

    parser.set_defaults(run=run)


def plan_for(settings: "Settings") -> "ModelPlan":
    """The plan of a core with these settings; of several, each has the same.

    Raises:
        ConfigError: the model is not here, or it does not fit, or there are too many cores; one line with the way out.
    """
    from engine_core.memory_plan import plan_model
    from fast_inference.core_shares import ONLY_CORE_SHARE, divide_machine
    from fast_inference.model_store import find_model

    if settings.model == FAKE_MODEL:
        raise ConfigError("the fake model has neither weights nor a KV cache: there is nothing to plan")
    folder = find_model(settings.model, rope=settings.rope)
    share = divide_machine(settings)[0] if settings.executor == "local" else ONLY_CORE_SHARE
    plan = plan_model(settings.model_copy(update={"model": folder}), settings, settings, share.of_machine)
    if settings.threads is None and share.cpus:
        return dataclasses.replace(plan, num_threads=min(plan.num_threads, len(share.cpus)))
    return plan


def plan_as_json(settings: "Settings", plan: "ModelPlan") -> dict[str, Any]:
    """All numbers of a plan, by their names in the code."""
    derived = ("kv_cache_bytes", "needed_bytes", "max_concurrency")
    return {
        "model": settings.model,
        "device": plan.device,
        "dtype": plan.dtype,
        "num_threads": plan.num_threads,
        "num_cores": plan.memory.share.num_cores,
        "num_parameters": plan.shape.num_parameters,
        **{name: value for name, value in dataclasses.asdict(plan.memory).items() if name != "share"},
        **{name: getattr(plan.memory, name) for name in derived},
    }


def plan_as_text(settings: "Settings", plan: "ModelPlan") -> str:
    """The plan for people, a line for each number."""
    from engine_core.memory_plan import format_bytes

    memory = plan.memory
    rows = {
        "model": f"{settings.model} ({plan.shape.num_parameters:,} parameters)",
        **({"cores": f"{memory.share.num_cores}, each as follows"} if memory.share.num_cores > 1 else {}),
        "device": f"{plan.device}, {plan.dtype}",
        "threads": str(plan.num_threads),
        "weights": format_bytes(memory.weights_bytes),
        "workspace": f"{format_bytes(memory.workspace_bytes)} for a step of "
        f"{settings.max_num_batched_tokens} tokens and {settings.max_num_seqs} requests",
        **_cache_rows(memory),
        "needed": f"{format_bytes(memory.needed_bytes)} of {format_bytes(memory.available_bytes)} {memory.share.text}",
    }
    lines = [f"{name:<16} {value}" for name, value in rows.items()]
    return "\n".join([*lines, *(f"note: {note}" for note in memory.notes)])


def _cache_rows(memory: "MemoryPlan") -> dict[str, str]:
    """The KV cache and what it has room for; a sentence encoder has none."""
    from engine_core.memory_plan import format_bytes

    if not memory.num_blocks:
        return {"KV cache": "none: a sentence encoder", "longest request": f"{memory.max_model_len} tokens"}
    return {
        "KV cache": f"{format_bytes(memory.kv_cache_bytes)}: {memory.num_blocks} blocks of {memory.block_size} tokens, "
        f"{memory.kv_bytes_per_token:,} bytes per token",
        "longest request": f"{memory.max_model_len} tokens, prompt and answer together",
        "concurrency": f"{memory.max_concurrency:.1f} requests of that length",
    }
