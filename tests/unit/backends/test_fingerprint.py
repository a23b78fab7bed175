"""Fingerprints, by the compiled function as this machine's compiler makes it, and without it."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from backend_samples import context
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import fingerprint
from backends.fingerprint import LIBRARY, Prints, by_nh, by_sha256, prints_of
from backends.protocol import DIMENSION, Floats

SOURCE = LIBRARY.with_suffix(".c")
Make = Callable[[Floats], Prints]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    path = tmp_path_factory.mktemp("native") / "fingerprint.so"
    command = [compiler, "-std=gnu11", "-O3", "-fPIC", "-shared", str(SOURCE), "-o", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module", params=["nh", "sha256"])
def make(request: pytest.FixtureRequest, library: Path) -> Make:
    if request.param == "sha256":
        return by_sha256
    native = fingerprint._native(library)
    return lambda vectors: by_nh(vectors, native)


def test_nh_is_the_sum_of_products_that_it_is_by_definition(library: Path) -> None:
    found = by_nh(context(20), fingerprint._native(library))
    words = context(20).view(np.uint32)
    keys = fingerprint._KEYS.reshape(4, DIMENSION)
    for vector, prints in zip(words, found, strict=True):
        keyed = (vector + keys).astype(object)  # modulo 2**32, then without bound
        whole = (keyed[:, : DIMENSION // 2] * keyed[:, DIMENSION // 2 :]).sum(axis=1)
        assert prints.tolist() == [number % 2**64 for number in whole]


@given(place=st.integers(0, DIMENSION - 1), bit=st.integers(0, 31), other=st.integers(0, 31))
@settings(max_examples=100, deadline=None)
def test_a_vector_that_differs_in_a_bit_or_two_has_another_fingerprint(
    make: Make, place: int, bit: int, other: int
) -> None:
    vectors = context(1).repeat(2, axis=0)
    words = vectors.view(np.uint32)
    words[1, place] ^= np.uint32(1 << bit)
    if other != bit:
        words[1, place - 1] ^= np.uint32(1 << other)
    one, two = make(vectors)
    assert (one != two).any()


def test_a_fingerprint_is_of_a_vector_alone_and_of_its_order(make: Make) -> None:
    vectors = context(5)
    prints = make(vectors)
    assert prints.shape == (5, 4)
    np.testing.assert_array_equal(make(vectors[3:4]), prints[3:4])
    turned = np.ascontiguousarray(vectors[:1, ::-1])
    assert (make(turned) != prints[:1]).any()
    halves = np.concatenate([vectors[:1, 384:], vectors[:1, :384]], axis=1)
    assert (make(halves) != prints[:1]).any()


def test_what_widens_to_the_same_float32_has_the_same_fingerprint() -> None:
    half = context(3).astype(np.float16)
    np.testing.assert_array_equal(prints_of(half), prints_of(half.astype(np.float32)))
    np.testing.assert_array_equal(prints_of(context(6)[::2]), prints_of(context(6)[::2].copy()))


def test_where_the_function_was_not_built_there_are_fingerprints_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "LIBRARY", tmp_path / "none.so")
    np.testing.assert_array_equal(prints_of(context(2)), by_sha256(context(2)))
    (tmp_path / "other.so").write_bytes(b"of another machine")
    monkeypatch.setattr(fingerprint, "LIBRARY", tmp_path / "other.so")
    np.testing.assert_array_equal(prints_of(context(2)), by_sha256(context(2)))


def test_the_keys_are_this_processs_own(library: Path) -> None:
    native = ctypes.CDLL(str(library)).fingerprint
    native.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    vectors, prints = context(1), np.empty((1, 4), np.uint64)
    known = np.zeros(4 * DIMENSION, np.uint32)
    native(vectors.ctypes.data, 1, known.ctypes.data, prints.ctypes.data)
    assert (prints != by_nh(vectors, native)).all()
