"""The compiled engine beside torch's, on the weights of a seed, cut to bfloat16 and whole."""

import copy
import functools
import shutil
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from backend_samples import context, untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from backends import weights
from backends.checkpoint import Checkpoint, save
from backends.checkpoint import load as load_checkpoint
from backends.engine import halves, library
from backends.engine.compiled import CompiledEngine
from backends.engine.make import make_engine
from backends.engine.port import Engine, EngineUnavailableError, GivenUpError, Piece, Reading, warm
from backends.engine.torch_cpu import TorchEngine
from backends.errors import CheckpointError
from backends.model import predict
from backends.protocol import Floats
from backends.shape import HIDDEN, LAYERS

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None and not list(library.FOLDER.glob("gru-*.so")),
    reason="no C compiler was there when this was installed",
)
Numbers = NDArray[np.float64]
HAS_DOTS = (
    library.VARIANTS[library.DOTS] <= library.processor_flags()
    and (library.FOLDER / f"gru-{library.DOTS}.so").exists()
)
LENGTHS = (1, 2, 7, 33, 33, 140)


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "phase.safetensors"
    save(untrained().model, path, trained=False, dtype=request.param)
    return path


@functools.cache
def engine_of(file: Path, threads: int = 1) -> CompiledEngine:
    return CompiledEngine(weights.load(file), threads=threads)


@functools.cache
def checkpoint_of(file: Path) -> Checkpoint:
    return load_checkpoint(file)


def pieces(lengths: tuple[int, ...] = LENGTHS) -> list[Piece]:
    return [Piece(context(length, seed)) for seed, length in enumerate(lengths)]


def assert_equal(one: Reading, other: Reading) -> None:
    np.testing.assert_array_equal(one.vector, other.vector)
    np.testing.assert_array_equal(one.state, other.state)


def test_it_answers_what_torch_answers_within_float32(file: Path) -> None:
    batch = pieces()
    torchs = TorchEngine(checkpoint_of(file), threads=1).run(batch)
    for found, expected in zip(engine_of(file).run(batch), torchs, strict=True):
        np.testing.assert_allclose(found.vector, expected.vector, atol=1e-6)
        np.testing.assert_allclose(found.state, expected.state, atol=5e-6)


def test_it_stays_within_1e_5_of_float64(file: Path) -> None:
    window = context(60)
    double = copy.deepcopy(checkpoint_of(file).model).double()
    with torch.inference_mode():
        whole = torch.tensor(window).double()[None]
        expected = predict(whole, double(whole))[0].numpy()
    found = engine_of(file).run([Piece(window)])[0].vector
    assert np.linalg.norm(found - expected) < 1e-5


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_a_request_gets_the_same_bits_alone_and_in_any_batch(lengths: list[int]) -> None:
    engine = shared_engine()
    batch = pieces(tuple(lengths))
    for piece, reading in zip(batch, engine.run(batch), strict=True):
        assert_equal(reading, engine.run([piece])[0])


@functools.cache
def shared_engine() -> CompiledEngine:
    return CompiledEngine(make_weights(), threads=1)


def make_weights() -> weights.Weights:
    arrays = {name: tensor.numpy() for name, tensor in untrained().model.state_dict().items()}
    return weights.Weights(arrays, "unit", "c" * 64, trained=False)


@pytest.mark.parametrize("known", [1, 30, 59])
def test_going_on_from_a_prefixs_state_gives_the_same_bits_as_reading_all(
    file: Path, known: int
) -> None:
    engine, window = engine_of(file), context(60)
    whole = engine.run([Piece(window)])[0]
    prefix = engine.run([Piece(window[:known])])[0]
    assert_equal(engine.run([Piece(window[known:], prefix.state)])[0], whole)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_predicting_from_states_gives_the_same_bits_as_reading_all(lengths: list[int]) -> None:
    batch = pieces(tuple(lengths))
    for engine in (shared_engine(), shared_dots(1)) if HAS_DOTS else (shared_engine(),):
        readings = engine.run(batch)
        lasts = np.stack([piece.vectors[-1] for piece in batch])
        found = engine.predict(lasts, [reading.state for reading in readings])
        np.testing.assert_array_equal(found, np.stack([reading.vector for reading in readings]))


def test_two_threads_give_the_same_bits_as_one(file: Path) -> None:
    batch = pieces()
    for one, two in zip(engine_of(file).run(batch), engine_of(file, 2).run(batch), strict=True):
        assert_equal(one, two)


def test_a_context_that_overflows_hurts_no_neighbour(file: Path) -> None:
    batch = pieces()
    broken = Piece(batch[3].vectors * np.float32(1e38))
    with np.errstate(all="ignore"):
        readings = engine_of(file).run([*batch[:3], broken, *batch[4:]])
    assert not np.isfinite(readings[3].vector).all()
    for place in (0, 1, 2, 4, 5):
        assert_equal(readings[place], engine_of(file).run([batch[place]])[0])


def test_bfloat16_weights_are_kept_as_they_are_and_others_whole(file: Path) -> None:
    kept = engine_of(file).capabilities.weights
    assert kept == ("bfloat16" if file.stat().st_size < 30e6 else "float32")


def test_it_reads_a_view_of_a_body_that_nobody_may_write() -> None:
    vectors = np.frombuffer(context(3).tobytes(), dtype="<f4").reshape(3, 768)
    engine: Engine = shared_engine()
    warm(engine, 4)
    reading = engine.run([Piece(vectors)])[0]
    assert reading.state.shape == (LAYERS, HIDDEN)
    assert float(np.linalg.norm(reading.vector)) == pytest.approx(1)


def skip_unless_here(variant: str) -> None:
    lacking = library.VARIANTS[variant] - library.processor_flags()
    if lacking:
        pytest.skip(f"this processor does not run {variant}: it lacks {', '.join(sorted(lacking))}")
    if not (library.FOLDER / f"gru-{variant}.so").exists():
        pytest.skip(f"{variant} was not built when this was installed")


@pytest.mark.parametrize("variant", list(library.VARIANTS))
def test_every_variant_that_this_processor_runs_gives_the_same_answer(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_unless_here(variant)
    vectors: Floats = context(9)
    expected = shared_engine().run([Piece(vectors)])[0].vector
    with monkeypatch.context() as patch:
        patch.setattr(library, "VARIANTS", {variant: frozenset[str]()})
        library.load.cache_clear()
        engine = CompiledEngine(make_weights(), threads=1)
    library.load.cache_clear()
    assert engine.capabilities.name == f"compiled-{variant}"
    np.testing.assert_allclose(engine.run([Piece(vectors)])[0].vector, expected, atol=1e-6)


# --- products in bfloat16 -------------------------------------------------------------------------


@functools.cache
def dots_of(file: Path, threads: int = 1) -> CompiledEngine:
    skip_unless_here(library.DOTS)
    return CompiledEngine(weights.load(file), threads=threads, precision="bfloat16")


def exactly(file: Path, window: Floats) -> Numbers:
    double = copy.deepcopy(checkpoint_of(file).model).double()
    with torch.inference_mode():
        whole = torch.tensor(window).double()[None]
        return predict(whole, double(whole))[0].numpy()


@pytest.mark.parametrize("length", [1, 2, 31, 129])
def test_products_in_bfloat16_stay_within_a_cosine_of_0_9999_of_float64(
    file: Path, length: int
) -> None:
    window = context(length)
    found = dots_of(file).run([Piece(window)])[0].vector
    assert float(found @ exactly(file, window)) > 0.9999
    assert dots_of(file).capabilities.precision == "bfloat16"


def test_products_in_bfloat16_are_others_than_float32s(file: Path) -> None:
    window = context(60)
    found = dots_of(file).run([Piece(window)])[0].vector
    assert (
        1e-5
        < np.linalg.norm(found - exactly(file, window))
        < 1e-3
        * (
            1 if file.stat().st_size < 30e6 else 10  # these weights are rounded too
        )
    )


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=21), st.sampled_from([1, 2]))
def test_in_bfloat16_too_a_request_gets_the_same_bits_alone_and_in_any_batch(
    lengths: list[int], threads: int
) -> None:
    batch = pieces(tuple(lengths))
    for piece, reading in zip(batch, shared_dots(threads).run(batch), strict=True):
        assert_equal(reading, shared_dots(1).run([piece])[0])


@functools.cache
def shared_dots(threads: int) -> CompiledEngine:
    skip_unless_here(library.DOTS)
    return CompiledEngine(make_weights(), threads=threads, precision="bfloat16")


@pytest.mark.parametrize("known", [1, 30, 59])
def test_in_bfloat16_too_going_on_from_a_state_gives_the_same_bits(file: Path, known: int) -> None:
    engine, window = dots_of(file), context(60)
    prefix = engine.run([Piece(window[:known])])[0]
    assert_equal(
        engine.run([Piece(window[known:], prefix.state)])[0], engine.run([Piece(window)])[0]
    )


def test_in_bfloat16_too_a_context_that_overflows_hurts_no_neighbour(file: Path) -> None:
    batch = pieces()
    broken = Piece(batch[3].vectors * np.float32(1e38))
    with np.errstate(all="ignore"):
        readings = dots_of(file).run([*batch[:3], broken, *batch[4:]])
    assert not np.isfinite(readings[3].vector).all()
    for place in (0, 1, 2, 4, 5):
        assert_equal(readings[place], dots_of(file).run([batch[place]])[0])


def test_a_smaller_batch_after_a_larger_one_finds_nothing_of_it_in_the_kept_rooms() -> None:
    engine = CompiledEngine(make_weights(), threads=1)
    first = engine.run([Piece(context(5))])[0]
    with np.errstate(all="ignore"):
        engine.run([Piece(context(40, seed) * np.float32(1e38)) for seed in range(9)])
    assert_equal(engine.run([Piece(context(5))])[0], first)


@pytest.mark.parametrize("name", ["auto", "compiled"])
def test_a_processor_without_these_products_is_told_so_and_float32_does_not_stand_in(
    name: Literal["auto", "compiled"], monkeypatch: pytest.MonkeyPatch
) -> None:
    without = library.processor_flags() - {"avx512_bf16"}
    monkeypatch.setattr(library, "processor_flags", lambda: without)
    library.load.cache_clear()
    try:
        with pytest.raises(EngineUnavailableError, match=r"=bfloat16, but .*no avx512_bf16"):
            make_engine(name, None, precision="bfloat16")
    finally:
        library.load.cache_clear()


def test_a_build_without_these_products_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "processor_flags", lambda: library.VARIANTS[library.DOTS])
    with pytest.raises(EngineUnavailableError, match=r"was not built.*mavx512bf16"):
        library.check_dots("x86-64-v4")


def test_torchs_engine_computes_in_float32_alone() -> None:
    with pytest.raises(EngineUnavailableError, match="only the compiled engine"):
        make_engine("torch", None, precision="bfloat16")


def test_without_a_kernel_auto_takes_torch_and_compiled_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    library.load.cache_clear()
    try:
        assert make_engine("auto", None).engine.capabilities.name == "torch"
        with pytest.raises(EngineUnavailableError, match=r"built are: none.*C compiler"):
            make_engine("compiled", None)
    finally:
        library.load.cache_clear()


def test_the_compiled_engine_has_no_graphics_card() -> None:
    with pytest.raises(EngineUnavailableError, match="BACKEND_DEVICE=cpu"):
        make_engine("compiled", None, device="cuda")


def test_without_a_graphics_card_cuda_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(EngineUnavailableError, match="no CUDA device"):
        make_engine("auto", None, device="cuda")


def test_the_table_of_shapes_is_the_models() -> None:
    state = untrained().model.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == weights.SHAPES


def test_weights_without_torch_are_the_checkpoints(file: Path) -> None:
    found, expected = weights.load(file), checkpoint_of(file)
    assert (found.identity, found.trained) == (expected.identity, expected.trained)
    for name, tensor in expected.model.state_dict().items():
        np.testing.assert_array_equal(found.arrays[name], tensor.numpy())


def test_a_file_that_holds_another_model_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"fusion.0.bias": np.zeros(3, np.float32), "stranger": np.zeros(1)}, path)
    with pytest.raises(CheckpointError) as error:
        weights.load(path)
    for fault in ("fusion.0.bias has the shape [3], not [512]", "stranger is unknown"):
        assert fault in str(error.value)
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        weights.load(path)
    with pytest.raises(CheckpointError, match="No such file"):
        weights.load(tmp_path / "missing")


@pytest.mark.skipif(
    not halves.can_multiply(), reason="the kernel was built before it could be stopped, or is plain"
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_that_is_given_up_says_so_and_hurts_no_later_one(file: Path, threads: int) -> None:
    engine = engine_of(file, threads)
    expected = engine.run(pieces((60,)))
    raised: list[BaseException] = []

    def run() -> None:
        try:
            engine.run(pieces((300, 300)))
        except GivenUpError as error:
            raised.append(error)

    runs = threading.Thread(target=run)
    runs.start()
    while runs.is_alive():
        engine.give_up()
    assert len(raised) == 1
    engine.give_up()  # too late, and for nothing
    for found, one in zip(engine.run(pieces((60,))), expected, strict=True):
        assert_equal(found, one)
