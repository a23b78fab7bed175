"""The gateway's bench: its backend and its load say what is so, on real sockets."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench_parties import Behind, Party, _written, stage
from bench_process import BenchError
from bench_speed import contexts, generate
from bench_start import Backend
from bench_statistics import added, added_ratio
from bench_wire import binary_request, posted

from backends.answer import read_answer
from backends.protocol import (
    HEADER_LENGTH,
)

CHANCE = np.random.default_rng(3)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with Backend("backend", tmp_path_factory.mktemp("bench"), arm="phase2") as started:
        yield started


def test_what_two_gateways_add_is_compared_and_not_what_they_take() -> None:
    direct = [*CHANCE.uniform(1, 3, 40)]
    one, other = [base + 0.4 for base in direct], [base + 0.1 for base in direct]
    assert added(one, direct).value == pytest.approx(0.4)
    found = added_ratio(one, other, direct)
    assert (found.value, found.low, found.high) == pytest.approx((4, 4, 4))


@pytest.mark.parametrize("length", [10, 500])
def test_the_benchs_backend_gives_an_answer_that_our_gateway_reads(
    backend: Backend, length: int
) -> None:
    with backend.connect() as connection:
        for _ in range(2):
            answer = connection.post(binary_request(contexts(length)))
            found = read_answer(answer.body, answer.headers[HEADER_LENGTH])
            assert (found.checkpoint, found.ids.size) == ("bench-phase2", 10)


def test_an_answer_in_chunks_is_joined(backend: Backend) -> None:
    with backend.connect() as connection:
        assert connection.get("/stream").body == b"part" * 4
        assert connection.get("/counts").status == 200


def test_the_load_counts_every_answer_of_all_its_connections(
    backend: Backend, tmp_path: Path
) -> None:
    request = Party("nothing", backend).ask(contexts(10))
    told = generate(backend, request, tmp_path, "--requests", "200", "--connections", "7")
    assert (told["answers"], told["bad"]) == (200, 0)


def test_the_load_ends_the_bench_over_an_answer_that_is_not_200(
    backend: Backend, tmp_path: Path
) -> None:
    elsewhere = posted(b"", {}, "/redirect")
    with pytest.raises(BenchError, match="5 of 5 answers not 200"):
        generate(backend, elsewhere, tmp_path, "--requests", "5", "--connections", "1")


@pytest.mark.parametrize("name", ["envoy.yaml", "nginx.conf", "litellm.yaml"])
def test_the_others_configurations_ask_for_nothing_that_the_bench_lacks(
    backend: Backend, tmp_path: Path, name: str
) -> None:
    behind = Behind(backend, backend, None)  # type: ignore[arg-type] # the store is ours alone
    text = _written(name, tmp_path, behind, 4321).read_text()
    assert f"127.0.0.1:{backend.port}" in text or f"port_value: {backend.port}" in text


def test_every_stage_of_the_bench_is_a_snapshot_of_its_own() -> None:
    assert [stage(version).position for version in (1, 2)] == [(1, 1), (1, 2)]
