"""What a frontend knows of its model."""

import asyncio
import logging
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from frontend.state import FrontendState, ServedModel
from ipc.client import EngineClient
from ipc.config import FrontendConfig
from ipc.errors import ConfigError, EngineUnavailableError, InvalidRequestError, ModelNotFoundError, QueueFullError
from ipc.messages import ClientRole, Load
from tests.factories import make_params
from tests.frontend.applications import Application, application
from tests.processes import CoreProcess, core_process


def test_every_name_is_served_and_no_other(model: ServedModel):
    for name in model.names:
        model.check_name(name)
    with pytest.raises(ModelNotFoundError) as caught:
        model.check_name("gpt-4")
    assert caught.value.param == "model"


def test_adapters_are_served_under_their_names(model: ServedModel):
    model = replace(model, welcome=replace(model.welcome, adapters=("sql",)))
    model.check_name("sql")
    assert (model.adapter_of("sql"), model.adapter_of(model.names[0])) == ("sql", "")
    with pytest.raises(ModelNotFoundError):
        model.check_name("chat")


def test_an_odd_model_name_is_not_repeated(model: ServedModel):
    with pytest.raises(ModelNotFoundError) as caught:
        model.check_name("a\x1b[31m")
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("token_ids", [[-1], [340], [5, 2**70]])
def test_token_ids_are_checked_against_the_vocabulary(model: ServedModel, token_ids: list[int]):
    with pytest.raises(InvalidRequestError) as caught:
        model.check_token_ids(token_ids, "tokens")
    assert caught.value.param == "tokens"


def test_the_fingerprint_is_short(model: ServedModel):
    assert model.system_fingerprint == "fp_0123456789abcdef"


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    """Runs 4 requests at once and lets 8 wait."""
    with core_process(tmp_path_factory.mktemp("run"), max_num_seqs=4, max_queued_requests=8) as core:
        yield core


@pytest.mark.parametrize(("configured", "names"), [((), ("fake", "fast-inference-model")), (("a", "b"), ("a", "b"))])
def test_the_names_are_the_configured_ones_or_else_the_model_id_and_the_alias(
    core: CoreProcess, configured: tuple[str, ...], names: object
):
    async def run() -> None:
        async with application(core.run_dir, served_model_name=configured) as served:
            assert served.state.model().names == names

    asyncio.run(run())


@pytest.mark.parametrize(
    ("load", "num_requests", "is_admitted"),
    [
        (Load(), 12, True),
        (Load(), 13, False),
        (Load(num_running=4), 8, True),
        (Load(num_running=4), 9, False),
        (Load(num_running=2, num_waiting=3), 7, True),
        (Load(num_running=2, num_waiting=3), 8, False),
        (Load(num_running=5, num_waiting=1), 7, True),
        (Load(num_running=5, num_waiting=1), 8, False),
        (Load(num_running=3, num_waiting=1, num_queued_tokens=10**9), 1, True),
        (Load(num_running=4, num_waiting=1, num_queued_tokens=10**9), 1, False),
    ],
)
def test_as_many_are_admitted_as_have_room(core: CoreProcess, load: Load, num_requests: int, is_admitted: bool):
    async def run() -> None:
        async with application(core.run_dir) as served:
            served.state.model()
            served.state.client._cores.channels[0].link.session.load = load
            if is_admitted:
                return served.state.check_admission(num_requests)
            with pytest.raises(QueueFullError):
                served.state.check_admission(num_requests)

    asyncio.run(run())


def test_an_early_refusal_says_when_to_try_again(core: CoreProcess):
    async def run() -> None:
        async with application(core.run_dir) as served:
            served.state.client._cores.channels[0].link.session.load = Load(
                num_running=4, num_waiting=8, retry_after_ms=2500
            )
            with pytest.raises(QueueFullError) as caught:
                served.state.check_admission()
            assert caught.value.retry_after_s == 2.5

    asyncio.run(run())


def test_a_first_model_that_cannot_be_served_is_a_failure(core: CoreProcess, tmp_path: Path):
    async def run() -> None:
        client = EngineClient(core.run_dir.core_socket, name="frontend-0", role=ClientRole.FRONTEND)
        state = FrontendState(FrontendConfig(chat_template=str(tmp_path / "missing")), client, created_at=1)
        await state.start()
        async with asyncio.timeout(20):
            await state.failed.wait()
        await state.close()
        assert isinstance(state.failure, ConfigError)
        assert not state.became_ready.is_set()

    asyncio.run(run())


def test_a_later_model_that_cannot_be_served_is_said_once_and_refused(
    core: CoreProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async def run() -> None:
        async with application(core.run_dir) as served:
            session = served.state.client._cores.channels[0].link.session
            assert session.welcome is not None
            session.welcome = replace(session.welcome, model_fingerprint="other", tokenizer_dir=str(tmp_path))
            await asyncio.sleep(1.5)  # three looks at it
            assert not served.state.failed.is_set()
            with pytest.raises(EngineUnavailableError, match="no tokenizer"):
                served.state.model()

    asyncio.run(run())
    assert [record.message.count("tokenizer.json") for record in caplog.records if record.levelno >= logging.ERROR] == [
        1
    ]


def test_what_nobody_foresaw_ends_the_watching_with_a_failure(core: CoreProcess, tmp_path: Path):
    async def run() -> None:
        async with application(core.run_dir) as served:
            session = served.state.client._cores.channels[0].link.session
            assert session.welcome is not None
            session.welcome = replace(session.welcome, model_fingerprint="other", tokenizer_dir=cast("str", None))
            async with asyncio.timeout(5):
                await served.state.failed.wait()
            assert not isinstance(served.state.failure, ConfigError | None)

    asyncio.run(run())


def test_a_later_model_has_the_names_that_the_launcher_wrote_for_it(core: CoreProcess):
    config = core.run_dir.config_file.read_text()

    async def run() -> None:
        async with application(core.run_dir, served_model_name=("old",)) as served:
            core.run_dir.config_file.write_text('{"served_model_name": ["new"]}')
            session = served.state.client._cores.channels[0].link.session
            before = session.welcome
            assert before is not None
            later = replace(before, model_fingerprint="other")
            await served.state._prepare_model(later)
            assert served.state.model().names == ("old",)
            session.welcome = later
            served.state.client._cores.look()
            assert served.state.model().names == ("new",)

    try:
        asyncio.run(run())
    finally:
        core.run_dir.config_file.write_text(config)


# --- a core that is stalled ---------------------------------------------------------------------------------------


def test_a_core_that_beats_no_more_is_stalled_until_it_does(core: CoreProcess, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("frontend.core_watch.BEAT_TIMEOUT_S", 1.0)

    async def run() -> None:
        async with application(core.run_dir) as served:
            core.process.send_signal(signal.SIGSTOP)
            try:
                await becomes(served, "stalled")
                with pytest.raises(EngineUnavailableError, match="stalled") as caught:
                    served.state.model()
                answer = await served.http.get("/health")
            finally:
                core.process.send_signal(signal.SIGCONT)
            assert (caught.value.code, caught.value.retry_after_s) == ("stalled", 5.0)
            assert (answer.status_code, answer.json()["status"]) == (503, "stalled")
            await becomes(served, "ready")
            assert served.state.model().names[0] == "fake"

    asyncio.run(run())


def test_a_step_over_its_allowance_is_stalled(tmp_path: Path):
    async def run() -> None:
        async with application(hanging.run_dir) as served:
            served.state.client.submit([1], make_params(max_tokens=20))
            await becomes(served, "stalled")
            with pytest.raises(EngineUnavailableError, match="stalled"):
                served.state.model()

    with core_process(tmp_path, hang_timeout=1, fake_faults="hang@3") as hanging:
        asyncio.run(run())


async def becomes(served: Application, status: str) -> None:
    for _ in range(200):
        if served.state.status == status:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{served.state.status} instead of {status}")
