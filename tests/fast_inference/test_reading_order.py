"""docs/reading-order.md leads through all packages and all large files, none of which is missing or gone."""

import re
import statistics
from pathlib import Path

from tests.documents import ROOT

TEXT = (ROOT / "docs/reading-order.md").read_text()
PACKAGES = ("frontend", "engine_core", "ipc", "fast_inference")
MAX_UNNAMED_LINES = 300


def linked_files() -> set[Path]:
    return {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\((\.\./[^)#]+)\)", TEXT)}


def source_files() -> list[Path]:
    return [
        path
        for package in PACKAGES
        for suffix in ("py", "h", "cpp")
        for path in (ROOT / package).rglob(f"*.{suffix}")
        if "__pycache__" not in path.parts
    ]


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_every_file_that_is_named_exists():
    linked = linked_files()
    assert len(linked) > 50
    assert [str(path) for path in linked if not path.exists()] == []


def test_no_large_file_is_left_out():
    linked = linked_files()
    large = [path for path in source_files() if num_lines(path) > MAX_UNNAMED_LINES]
    assert [str(path.relative_to(ROOT)) for path in large if path not in linked] == []
    assert f"no file of more than {MAX_UNNAMED_LINES} lines" in TEXT


def test_no_package_is_left_out():
    linked = {path.parent for path in linked_files() if path.name == "__init__.py"}
    packages = {path.parent for path in source_files() if path.name == "__init__.py"}
    assert [str(path.relative_to(ROOT)) for path in packages - linked if path.parent != ROOT] == []


def test_the_sizes_that_it_tells_are_about_right():
    sizes = [num_lines(path) for path in source_files() if path.suffix == ".py"]
    told = re.search(r"About ([\d,]+) lines .* the median has (\d+), the largest (\d+)", TEXT)
    total, median, largest = told.groups()
    assert 0.8 < sum(sizes) / int(total.replace(",", "")) < 1.25
    assert 0.8 < statistics.median(sizes) / int(median) < 1.25
    assert max(sizes) <= 1.1 * int(largest)
