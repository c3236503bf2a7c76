"""`fast-inference run-batch -i FILE -o FILE`: answers a file of requests; see `fast_inference/batch/run.py`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fast_inference.flags import FlagParser, add_setting_flags, flag_name, given_flags, positive_number
from ipc.config import (
    CacheConfig,
    FakeModelConfig,
    FrontendConfig,
    LauncherConfig,
    LogConfig,
    ModelConfig,
    SchedulerConfig,
)

if TYPE_CHECKING:
    from fast_inference.settings import Settings

_EXAMPLES = """\
examples:
  fast-inference run-batch -i in.jsonl -o out.jsonl                                  a core of its own
  fast-inference run-batch -i in.jsonl -o out.jsonl --attach http://127.0.0.1:8000   beside the users of a server
  fast-inference run-batch -i in.jsonl --check                                       only look for wrong lines
  fast-inference run-batch -i in/ -o out/ --executor ray                             on all nodes of a Ray cluster

exit status: 0 every line is answered or in the file of errors, 1 the job cannot go on, 2 wrong usage, 130 interrupted
"""
_SECTIONS = (ModelConfig, SchedulerConfig, CacheConfig, FrontendConfig, LauncherConfig, LogConfig, FakeModelConfig)
_NOT_OF_A_JOB = frozenset(
    {
        *(set(FrontendConfig.model_fields) - {"served_model_name", "max_body_bytes", "chat_template", "strict_params"}),
        *(set(LauncherConfig.model_fields) - {"hang_timeout"}),
    }
)
"""Settings of servers."""
DEFAULT_LINES_PER_PART = 1000
_ONLY_ON_RAY = {
    "job_ray_address": "--ray-address",
    "job_cores": "--cores",
    "job_cpus_per_core": "--ray-cpus-per-core",
    "job_gpus_per_core": "--ray-gpus-per-core",
    "lines_per_part": "--lines-per-part",
    "output_format": "--output-format",
}
_NOT_ON_RAY = {"errors": "--errors", "ordered": "--ordered", "check": "--check"}
_WITH_ATTACH = frozenset({"log_level", "log_format", "config"})
"""Settings that also mean something where the core is that of a server."""


def add_run_batch(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "run-batch",
        argument_default=argparse.SUPPRESS,
        usage="fast-inference run-batch -i FILE -o FILE [flags] [MODEL]",
        help="answer a file of requests",
        description="Answer every line of a file in OpenAI's batch format, on an engine core of its own or on that of "
        "a running server. What is done stays done: the same command goes on where an earlier one ended.",
        epilog=_EXAMPLES,
    )
    job = parser.add_argument_group("The job")
    job.add_argument("-i", "--input", type=Path, required=True, metavar="FILE", help="JSONL, or .gz of it (required)")
    job.add_argument("-o", "--output", type=Path, metavar="FILE", help="JSONL of answers (required, but with --check)")
    job.add_argument(
        "--errors",
        type=Path,
        metavar="FILE",
        help="lines that failed (default: OUTPUT, without its .jsonl, with .errors.jsonl)",
    )
    job.add_argument(
        "--attach",
        metavar="RUN_DIR|URL",
        help="use the core of this running server of this machine (default: a core of its own)",
    )
    job.add_argument(
        "--max-in-flight",
        type=_positive,
        metavar="N",
        help="lines at once (default: as many as the core runs, and some)",
    )
    job.add_argument(
        "--ordered", action="store_true", help="put the output in the order of the input in the end (default: no)"
    )
    job.add_argument(
        "--reorder",
        choices=("prefix", "none"),
        help="'prefix': equal beginnings of prompts one after the other, for the prefix cache (default)",
    )
    job.add_argument("--check", action="store_true", help="only look for wrong lines, without an engine (default: no)")
    _add_ray_flags(parser)
    add_setting_flags(parser, _SECTIONS, leave_out=_NOT_OF_A_JOB)
    parser.set_defaults(run=lambda namespace: _run(parser, namespace))


def _add_ray_flags(parser: FlagParser) -> None:
    ray = parser.add_argument_group("Many machines, with --executor ray")
    ray.add_argument(
        "--executor",
        dest="job_executor",
        choices=("local", "ray"),
        help="'ray': many engine cores, on all nodes of a Ray cluster; input and output are folders that all of them "
        "see (default: local)",
    )
    ray.add_argument(
        "--ray-address",
        dest="job_ray_address",
        metavar="ADDRESS",
        help="of the cluster; 'auto': that of this machine (default: RAY_ADDRESS, else one is started for the job)",
    )
    ray.add_argument(
        "--cores",
        dest="job_cores",
        type=_count_or_range,
        metavar="N|MIN:MAX",
        help="engine cores (default: one for each GPU, or for each node where there are none)",
    )
    ray.add_argument(
        "--ray-cpus-per-core",
        dest="job_cpus_per_core",
        type=positive_number,
        metavar="N",
        help="CPUs that Ray reserves for each core (default: 1 with a GPU, else its share of the smallest node)",
    )
    ray.add_argument(
        "--ray-gpus-per-core",
        dest="job_gpus_per_core",
        type=_number,
        metavar="N",
        help="GPUs that Ray reserves for each core (default: 1 if the cluster has any, else 0)",
    )
    ray.add_argument(
        "--lines-per-part",
        type=_positive,
        metavar="N",
        help="lines of the input for each file of the output, which is what is done again at most (default: 1000)",
    )
    ray.add_argument("--output-format", choices=("jsonl", "parquet"), help="of answers (default: jsonl)")


def _run(parser: FlagParser, namespace: argparse.Namespace) -> int:
    from fast_inference.batch.check import check_input
    from fast_inference.batch.run import RunOptions, run_batch
    from fast_inference.settings import resolve_settings
    from frontend.batch.job import JobFiles
    from frontend.batch.line_source import Reorder
    from ipc.log import configure_logging

    _refuse_useless(parser, namespace)
    flags = given_flags(parser, namespace)
    attach: str | None = getattr(namespace, "attach", None)
    if attach is not None and (useless := sorted(flags.keys() - _WITH_ATTACH)):
        parser.error(f"{flag_name(useless[0])} is for a core of one's own; --attach uses that of the server")
    settings = resolve_settings(flags)
    if "log_level" not in settings.model_fields_set:
        settings = settings.model_copy(update={"log_level": "warning"})  # the progress is what people look at
    configure_logging(settings, "run-batch")
    if hasattr(namespace, "check"):
        return check_input(namespace.input, settings.max_body_bytes)
    if not hasattr(namespace, "output"):
        parser.error("--output is missing")
    if _is_for_ray(namespace):
        return _run_on_ray(namespace, attach, settings)
    output: Path = namespace.output
    if output.exists() and not output.is_file():
        if hasattr(namespace, "ordered"):
            parser.error(f"{output} is no regular file: --ordered cannot sort it")
        if not hasattr(namespace, "errors"):
            parser.error(f"{output} is no regular file: say with --errors where lines go that fail")
    errors: Path = getattr(namespace, "errors", output.with_name(f"{output.name.removesuffix('.jsonl')}.errors.jsonl"))
    files = JobFiles(namespace.input, output, errors)
    options = RunOptions(
        files,
        attach,
        getattr(namespace, "max_in_flight", None),
        Reorder(getattr(namespace, "reorder", Reorder.PREFIX)),
        hasattr(namespace, "ordered"),
    )
    return run_batch(options, settings)


def _run_on_ray(namespace: argparse.Namespace, attach: str | None, settings: "Settings") -> int:
    from fast_inference.ray_batch.parts import OutputFormat
    from fast_inference.ray_batch.run import RayOptions, run_ray_batch
    from frontend.batch.line_source import Reorder

    options = RayOptions(
        namespace.input,
        namespace.output,
        OutputFormat(getattr(namespace, "output_format", OutputFormat.JSONL)),
        getattr(namespace, "job_ray_address", settings.ray_address),
        getattr(namespace, "job_cores", None),
        getattr(namespace, "job_cpus_per_core", settings.ray_cpus_per_core),
        getattr(namespace, "job_gpus_per_core", None),
        getattr(namespace, "lines_per_part", DEFAULT_LINES_PER_PART),
        attach,
        getattr(namespace, "max_in_flight", None),
        Reorder(getattr(namespace, "reorder", Reorder.PREFIX)),
    )
    return run_ray_batch(options, settings)


def _is_for_ray(namespace: argparse.Namespace) -> bool:
    return getattr(namespace, "job_executor", "local") == "ray"


def _refuse_useless(parser: FlagParser, namespace: argparse.Namespace) -> None:
    """Flags that this executor would not look at are wrong usage."""
    useless = _NOT_ON_RAY if _is_for_ray(namespace) else _ONLY_ON_RAY
    for name, flag in useless.items():
        if hasattr(namespace, name):
            parser.error(f"{flag} is not for --executor {'ray' if _is_for_ray(namespace) else 'local'}")


def _count_or_range(text: str) -> tuple[int, int]:
    """`4` or `2:8`."""
    first, colon, last = text.partition(":")
    fewest = _positive(first)
    most = _positive(last) if colon else fewest
    if most < fewest:
        raise argparse.ArgumentTypeError(f"must be N or MIN:MAX, not {text!r}")
    return fewest, most


def _number(text: str) -> float:
    return 0.0 if text.strip() == "0" else positive_number(text)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
