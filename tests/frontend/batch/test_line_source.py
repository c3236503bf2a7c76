"""The order in which lines are pulled."""

import asyncio
import json
from pathlib import Path

from frontend.batch.input_file import InputFile
from frontend.batch.ledger import LineLedger
from frontend.batch.line_source import LineSource, Reorder
from frontend.batch.lines import BatchLine


def pulled(path: Path, reorder: Reorder) -> list[str | None]:
    async def pull() -> list[str | None]:
        with InputFile(path, max_line_bytes=10_000) as file:
            source, ids = LineSource(file, LineLedger(), reorder), []
            while (line := await source.next()) is not None:
                ids.append(line.custom_id)
            return ids

    return asyncio.run(pull())


def write_chats(path: Path, systems: str, count: int) -> None:
    with path.open("w") as file:
        for number in range(count):
            system = systems[number % len(systems)] * 50
            messages = [{"role": "system", "content": system}, {"role": "user", "content": str(number)}]
            line = {"custom_id": f"{system[0]}{number}", "method": "POST", "url": "/v1/chat/completions"}
            file.write(json.dumps({**line, "body": {"messages": messages}}) + "\n")


def test_prompts_that_begin_alike_are_neighbours(tmp_path: Path):
    write_chats(tmp_path / "in", "abc", 30)
    first = [str(custom_id)[0] for custom_id in pulled(tmp_path / "in", Reorder.PREFIX)]
    assert first == ["a"] * 10 + ["b"] * 10 + ["c"] * 10


def test_without_reordering_the_input_decides(tmp_path: Path):
    write_chats(tmp_path / "in", "abc", 3000)
    expected = [f"{'abc'[number % 3]}{number}" for number in range(3000)]
    assert pulled(tmp_path / "in", Reorder.NONE) == expected
    assert sorted(map(str, pulled(tmp_path / "in", Reorder.PREFIX))) == sorted(expected)


def test_several_tasks_pull_each_line_once(tmp_path: Path):
    write_chats(tmp_path / "in", "ab", 2500)

    async def pull() -> list[str]:
        with InputFile(tmp_path / "in", max_line_bytes=10_000) as file:
            source = LineSource(file, LineLedger())

            async def worker() -> list[str]:
                ids = []
                while (line := await source.next()) is not None:
                    assert isinstance(line, BatchLine)
                    ids.append(line.custom_id)
                    await asyncio.sleep(0)
                return ids

            return [custom_id for ids in await asyncio.gather(*(worker() for _ in range(8))) for custom_id in ids]

    ids = asyncio.run(pull())
    assert len(ids) == len(set(ids)) == 2500
