#!/usr/bin/env python3
"""Usage: scripts/generate_metrics_docs.py [--check]

Writes the table in docs/metrics.md, between its two marks, from `ipc/metric_families.py`. With --check it only
compares, and exits with 1 where the file is stale.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ipc.metric_families import DEFAULT_PREFIX, FAMILIES, MetricFamily, core_label  # noqa: E402

DOCUMENT = ROOT / "docs" / "metrics.md"
BEGIN, END = "<!-- metrics: begin -->\n", "<!-- metrics: end -->\n"


def main() -> int:
    """Write the document, or compare it."""
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}{table()}{END}{after}"
    if sys.argv[1:] == ["--check"]:
        if new != text:
            print(f"{DOCUMENT} is stale: run scripts/generate_metrics_docs.py", file=sys.stderr)
        return int(new != text)
    DOCUMENT.write_text(new)
    return 0


def table() -> str:
    """One row for each metric."""
    lines = ["| metric | kind | labels | from | what |", "|---|---|---|---|---|", *map(_row, FAMILIES.values())]
    return "\n".join(lines) + "\n"


def _row(family: MetricFamily) -> str:
    names = (*([core_label(DEFAULT_PREFIX)] if family.is_per_core else []), *family.labels)
    labels = ", ".join(f"`{label}`" for label in names) or "-"
    what = family.documentation.replace("|", "\\|")
    if family.buckets:
        what += f" Buckets {_number(family.buckets[0])} to {_number(family.buckets[-1])}."
    return f"| `{family.full_name(DEFAULT_PREFIX)}` | {family.kind} | {labels} | {family.origin} | {what} |"


def _number(value: float) -> str:
    return f"{value:,g}" if value < 1000 else f"{int(value):,}"


if __name__ == "__main__":
    sys.exit(main())
