"""Files of contexts: what they hold, or a sentence about what is wrong with them; nothing else."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import contextfile
from deploy.contextfile import FileError, read_file, read_question

VECTORS = np.random.default_rng(1).standard_normal((3, 768)).astype(np.float32)


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npz(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "."), data)
    return out.getvalue()


def lying(shape: str) -> bytes:
    """Write an .npy of three vectors whose header claims another shape."""
    true = npy(VECTORS)
    claim = true.replace(b"(3, 768)", shape.encode())
    return claim.replace(b" " * (len(claim) - len(true)) + b"\n", b"\n", 1)


@pytest.mark.parametrize(
    "data",
    [
        lying("(999999999, 768)"),
        lying("(99999999999999999999999, 768)"),
        lying("(2, 768)"),
        npz(context__npy=lying("(999999999, 768)")),
    ],
)
def test_a_header_that_lies_about_its_shape_is_told_before_room_is_made_for_it(data: bytes) -> None:
    with pytest.raises(FileError, match=r"cannot be read: its header says \[\d+, 768\] of float32"):
        read_question(data, "x")


def test_a_zip_without_arrays_says_so_and_one_that_unfolds_is_not_unfolded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for data in (npz(readme__txt=b"hello"), npz()):
        with pytest.raises(FileError, match="x holds no array: the context must be called"):
            read_question(data, "x")
    monkeypatch.setattr(contextfile, "MAX_BYTES", 1 << 20)
    with pytest.raises(FileError, match="unfolds to more than 1 MiB"):
        read_question(npz(context__npy=bytes(2 << 20)), "x")


def test_numbers_beyond_float32_are_told_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FileError, match="not finite in float32"):
            read_question(npy(np.full((1, 768), 1e300)), "x")


def test_a_file_without_an_end_is_read_up_to_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contextfile, "MAX_BYTES", 1 << 20)
    with pytest.raises(FileError, match="/dev/zero is longer than 1 MiB"):
        read_file("/dev/zero")


@pytest.mark.parametrize(
    ("file", "words"),
    [("no-such", "no-such cannot be read: No such file or directory: no-such"), ("a\0b", "null")],
)
def test_a_file_that_is_not_there_is_told_without_pythons_numbers(file: str, words: str) -> None:
    with pytest.raises(FileError, match=words) as caught:
        read_file(file)
    assert "Errno" not in str(caught.value)


@given(st.data())
def test_whatever_is_done_to_a_file_there_is_a_context_or_a_sentence(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([npy(VECTORS), npz(x__npy=npy(VECTORS))])))
    ends = st.one_of(st.integers(0, 160), st.integers(max(0, len(whole) - 200), len(whole) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(ends)] = data.draw(st.integers(0, 255))
    try:
        found = read_question(bytes(whole), "x")
    except FileError:
        return
    assert found.context.shape[1] == 768


def test_files_of_numpys_are_read(tmp_path: Path) -> None:
    for data in (npy(VECTORS), npy(VECTORS.astype(np.float64)), npz(x__npy=npy(VECTORS))):
        (tmp_path / "x").write_bytes(data)
        found = read_question(read_file(str(tmp_path / "x")), "x").context
        np.testing.assert_array_equal(found, VECTORS)
    transposed = np.asfortranarray(VECTORS)
    np.testing.assert_array_equal(read_question(npy(transposed), "x").context, VECTORS)
