"""The Python client and its verbs on the command line, against a gateway on a real socket."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import structlog
from gateway_rig import Rig, context, gateway, publish, running, snapshot
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typer.testing import CliRunner, Result

from backends.serving.access import Key, Right, digest_of, new_key
from deploy.cli import app
from rollout.snapshot import DEFAULT_TIERS
from router.client import (
    AccessError,
    AsyncClient,
    Client,
    DeadlineError,
    RequestError,
    UnavailableError,
    UnreachableError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECRET = new_key(bytes(32))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("gateway")
    rights = frozenset({Right.PREDICT})
    (folder / "keys").write_text(str(Key("ci", rights, digest_of(SECRET))))
    async with gateway(folder, keys_file=folder / "keys") as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Rig:
    shared.reset()
    return shared


def url_of(rig: Rig) -> str:
    return str(rig.client.base_url)


async def test_both_clients_get_the_same_answer(rig: Rig) -> None:
    vectors = context(300)
    async with AsyncClient(url_of(rig), api_key=SECRET) as client:
        first = await client.predict(vectors, top_k=3)

    def ask() -> Any:
        with Client(url_of(rig), api_key=SECRET) as client:
            return client.predict(vectors.tolist(), top_k=3)

    second = await asyncio.to_thread(ask)
    assert first.request_id != second.request_id
    for answer in (first, second):
        assert (answer.arm, answer.reason, answer.length) == ("phase2", "tier", 300)
        assert [one.id for one in answer.neighbors] == [100, 101, 102]
        np.testing.assert_allclose(answer.vector, vectors[-1], rtol=1e-6)
        assert answer.checkpoint == "phase2-checkpoint"
    assert SECRET not in repr(second)


async def test_errors_have_their_type_and_the_gateways_words(rig: Rig) -> None:
    async with AsyncClient(url_of(rig)) as client:
        with pytest.raises(AccessError, match="an API key is needed") as caught:
            await client.predict(context(1))
        assert (caught.value.status, len(caught.value.request_id or "")) == (401, 36)
    async with AsyncClient(url_of(rig), api_key=SECRET) as client:
        with pytest.raises(AccessError, match='lacks the right "feedback"'):
            await client.feedback("x", target_id=1)
        with pytest.raises(AccessError, match='lacks the right "override"'):
            await client.predict(context(1), arm="phase2")
        with pytest.raises(RequestError, match="top_k must be a whole number"):
            await client.predict(context(1), top_k=0)
        rig.phase1.hold = asyncio.Event()
        began = time.monotonic()
        with pytest.raises(DeadlineError):
            await client.predict(context(1), timeout_s=0.2)
        assert time.monotonic() - began < 2
    async with AsyncClient("http://127.0.0.1:9") as client:
        with pytest.raises(UnreachableError, match="the gateway was not reached"):
            await client.predict(context(1))


# --- trying again -------------------------------------------------------------------------------


class Flaky:
    """A server that is busy for the first `busy` requests."""

    def __init__(self, busy: int, retry_after: str = "0") -> None:
        self.busy, self.retry_after = busy, retry_after
        self.deadlines: list[int] = []

    async def answer(self, request: Request) -> Response:
        await request.body()
        self.deadlines.append(int(request.headers["x-request-timeout-ms"]))
        if len(self.deadlines) <= self.busy:
            return JSONResponse({"error": "busy"}, 503, {"retry-after": self.retry_after})
        return JSONResponse({"queued": True}, 202)

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/feedback", self.answer, methods=["POST"])])


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_busy_gateway_is_asked_again_with_what_is_left_of_the_deadline(
    asynchronous: bool,
) -> None:
    flaky = Flaky(busy=2)
    async with running(flaky.app) as url:
        if asynchronous:
            async with AsyncClient(url, timeout_s=5) as client:
                await client.feedback("a-name", target_id=1)
        else:
            with Client(url, timeout_s=5) as waiting:
                await asyncio.to_thread(waiting.feedback, "a-name", target_id=1)
    assert len(flaky.deadlines) == 3
    assert 5000 >= flaky.deadlines[0] >= flaky.deadlines[1] >= flaky.deadlines[2] > 0


async def test_a_gateway_that_stays_busy_is_left_alone_after_three_tries() -> None:
    flaky = Flaky(busy=99)
    async with running(flaky.app) as url, AsyncClient(url) as client:
        with pytest.raises(UnavailableError, match="busy"):
            await client.feedback("a-name", target_id=1)
    assert len(flaky.deadlines) == 3


async def test_a_wait_beyond_the_deadline_is_an_error_at_once() -> None:
    flaky = Flaky(busy=1, retry_after="60")
    began = time.monotonic()
    async with running(flaky.app) as url, AsyncClient(url, timeout_s=5) as client:
        with pytest.raises(UnavailableError) as caught:
            await client.feedback("a-name", target_id=1)
    assert caught.value.retry_after_s == 60
    assert time.monotonic() - began < 4


# --- the verbs ----------------------------------------------------------------------------------


async def invoke(
    rig: Rig, *arguments: str, stdin: bytes | None = None, key: str = SECRET
) -> Result:
    environment = {"TURNOUT_GATEWAY_URL": url_of(rig), "TURNOUT_API_KEY": key, "COLUMNS": "200"}
    return await asyncio.to_thread(
        CliRunner().invoke, app, list(arguments), input=stdin, env=environment
    )


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


VECTORS = context(3)
CONTEXTS = {
    "npy": npy(VECTORS),
    "npy of float64": npy(VECTORS.astype(np.float64)),
    "npz with its name": npz(vectors=VECTORS, ids=np.arange(3)),
    "npz with one": npz(x=VECTORS),
    "a list": json.dumps(VECTORS.tolist()).encode(),
    "a body": json.dumps({"context": VECTORS.tolist(), "top_k": 2}).encode(),
}


@pytest.mark.parametrize("name", CONTEXTS)
async def test_predict_reads_every_form_of_a_context_from_stdin_and_from_a_file(
    rig: Rig, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "context"
    file.write_bytes(CONTEXTS[name])
    from_stdin = await invoke(rig, "predict", "-", "--json", stdin=CONTEXTS[name])
    from_file = await invoke(rig, "predict", str(file), "--json", "--top-k", "5")
    for result, count in ((from_stdin, 2 if name == "a body" else 10), (from_file, 5)):
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        assert (told["arm"], told["length"], len(told["neighbors"])) == ("phase1", 3, count)
        np.testing.assert_allclose(told["prediction"], VECTORS[-1], rtol=1e-5)


async def test_predict_prints_a_table_for_people_and_what_feedback_needs(rig: Rig) -> None:
    result = await invoke(rig, "predict", "-", "--top-k", "2", stdin=CONTEXTS["npy"])
    lines = result.stdout.splitlines()
    assert lines[0] == "phase1 answered (tier): 3 vectors"
    assert [line.split() for line in lines[1:4]] == [
        ["rank", "id", "score"],
        ["1", "100", "1.0000"],
        ["2", "101", "0.9444"],
    ]
    assert lines[-1].startswith("request id ")
    assert "turnout feedback" in result.stderr
    assert "--url" not in result.stderr
    elsewhere = await invoke(rig, "predict", "-", "--url", f"{url_of(rig)}/", stdin=CONTEXTS["npy"])
    assert f"--url {url_of(rig)}/" in elsewhere.stderr


async def test_predict_says_how_many_vectors_were_read_and_who_stood_in_for_whom(
    tmp_path: Path, valkey_url: str
) -> None:
    await publish(valkey_url, snapshot(mode="ab", weight=100))
    async with gateway(tmp_path, redis_url=valkey_url, tiers=DEFAULT_TIERS) as rig:
        rig.phase2.status = 500
        async with AsyncClient(url_of(rig)) as client:
            answer = await client.predict(context(120))
        assert (answer.arm, answer.assigned, answer.fell_back) == ("phase1", "phase2", True)
        assert (answer.stage, answer.version, answer.window) == ("the-stage", "1.1", 100)
        with structlog.testing.capture_logs():  # the gateway's own go to this process's stdout
            shown = await invoke(rig, "predict", "-", stdin=npy(context(120)))
            listed = await invoke(rig, "predict", "-", "--json", stdin=npy(context(120)))
        assert shown.stdout.splitlines()[0] == (
            "phase1 answered for phase2, which failed (bucket-in): 120 vectors, of which it read "
            "the newest 100"
        )
        told = json.loads(listed.stdout)
        assert (told["assigned"], told["window"], told["stage"]) == ("phase2", 100, "the-stage")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "- is empty: a context is .npy, .npz or JSON"),
        (b"hello", "- is neither .npy nor .npz, and no context in JSON"),
        (b'{"contxt": []}', "the unknown field"),
        (npy(np.zeros((3, 767))), "- has the shape [3, 767]: a context is [n, 768]"),
        (npy(np.full((3, 768), np.nan)), "- holds numbers that are not finite"),
        (npy(np.array(["x"])), "- holds <U1: a context is float32 [n, 768]"),
        (npz(a=VECTORS, b=VECTORS), "- holds a, b: the context must be called context or vectors"),
        (npy(VECTORS)[:100], "- cannot be read"),
        (npz(x=VECTORS)[:900], "- cannot be read"),
    ],
)
async def test_a_file_that_is_no_context_is_told_in_words_and_exits_with_2(
    rig: Rig, data: bytes, words: str
) -> None:
    result = await invoke(rig, "predict", "-", stdin=data)
    assert result.exit_code == 2
    assert words in result.stderr


async def test_a_file_of_pickled_objects_runs_nothing(rig: Rig, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    data = npy(np.array([Trap()], dtype=object))
    result = await invoke(rig, "predict", "-", stdin=data)
    assert result.exit_code == 2
    assert not (tmp_path / "sprung").exists()


async def test_exit_codes_tell_a_refusal_from_what_may_pass(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "c.npy").write_bytes(CONTEXTS["npy"])
    file = str(tmp_path / "c.npy")
    refused = await invoke(rig, "predict", file, key="")
    assert refused.exit_code == 1
    assert "an API key is needed" in refused.stderr
    assert "TURNOUT_API_KEY" in refused.stderr
    rig.phase1.hold = asyncio.Event()
    late = await invoke(rig, "predict", file, "--timeout", "0.2")
    assert late.exit_code == 3
    away = await invoke(rig, "predict", file, "--url", "http://127.0.0.1:9")
    assert away.exit_code == 3
    assert "--url or TURNOUT_GATEWAY_URL names another" in away.stderr
    for arguments, key, words in (
        (("--url", "localhost:18080"), SECRET, "write http://localhost:18080"),
        (("--url", "http://:1"), SECRET, "is no address of a gateway"),
        (("--url", "http://[::1"), SECRET, "is no address of a gateway"),
        (("--timeout", "inf"), SECRET, "a number of seconds above 0, not inf"),
        (("--arm", "\u00fc"), SECRET, "arm holds characters that no header carries"),
        (("--key", "\udcff"), SECRET, "key is no text in UTF-8"),
        ((), "\u043a\u043b\u044e\u0447", "the API key holds characters that no header carries"),
    ):
        wrong = await invoke(rig, "predict", file, *arguments, key=key)
        assert (wrong.exit_code, wrong.stdout) == (2, ""), arguments
        assert words in wrong.stderr
        assert key not in wrong.stderr
    for name, target in (("a", "9" * 23), ("a", "-" + "9" * 23), ("\udcff", "1")):
        wrong = await invoke(rig, "feedback", name, "--", target)
        assert wrong.exit_code == 2, wrong.output
    missing = await invoke(rig, "predict", "no-such-file.npy")
    assert missing.exit_code == 2
    assert "No such file" in missing.stderr
    for result in (refused, late, away):
        assert SECRET not in result.output


async def test_a_server_that_is_no_gateway_is_said_to_be_none(rig: Rig) -> None:
    async with running(Starlette()) as url:
        result = await invoke(rig, "predict", "-", "--url", url, stdin=CONTEXTS["npy"])
    assert result.exit_code == 1
    assert f"{url} is no gateway; --url or TURNOUT_GATEWAY_URL names another" in result.stderr


async def test_feedback_sends_an_id_or_a_vector(tmp_path: Path, valkey_url: str) -> None:
    async with gateway(tmp_path, redis_url=valkey_url) as rig:
        rig.phase1.bank[round(float(VECTORS[0][0]))] = 17
        first, second = [(await rig.predict()).headers["x-request-id"] for _ in range(2)]
        done = await invoke(rig, "feedback", first, "17")
        assert (done.exit_code, done.stdout.strip()) == (0, "taken in")
        again = await invoke(rig, "feedback", first, "17", "--json")
        assert (again.exit_code, json.loads(again.stdout)) == (0, {"queued": True})
        contradiction = await invoke(rig, "feedback", first, "18")
        assert contradiction.exit_code == 1
        assert "another target was given" in contradiction.stderr
        for data in (npy(VECTORS[0]), json.dumps(VECTORS[0].tolist()).encode()):
            assert (await invoke(rig, "feedback", second, "-", stdin=data)).exit_code == 0
        many = await invoke(rig, "feedback", second, "-", stdin=npy(VECTORS))
        assert many.exit_code == 2
        assert "holds 3 vectors: the truth is one" in many.stderr
