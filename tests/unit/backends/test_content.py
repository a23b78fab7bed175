"""What clients compress comes out as it was, and never larger than the limit."""

import contextlib
import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.jsonbody import ProtocolError
from backends.serving.content import MIB, STEP, check_encoding, inflate, is_plain

PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


def refusal(body: bytes, encoding: str, limit: int = MIB) -> tuple[int, str]:
    with pytest.raises(ProtocolError) as error:
        inflate(body, encoding, limit)
    return error.value.status, str(error.value)


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("size", [1, STEP - 1, STEP, STEP + 1, 3 * STEP, 3 * STEP + 7])
@pytest.mark.parametrize("made", [bytes, lambda n: bytes(i * i % 251 for i in range(n))])
def test_a_body_of_any_size_comes_out_as_it_was(name: str, size: int, made: object) -> None:
    body = made(size)  # type: ignore[operator]  # both are functions of the size
    assert inflate(PACK[name](body), name.upper(), len(body)) == body


@pytest.mark.parametrize("name", PACK)
def test_one_byte_beyond_the_limit_is_413(name: str) -> None:
    status, words = refusal(PACK[name](bytes(2 * MIB + 1)), name, 2 * MIB)
    assert (status, words) == (
        413,
        f"the body is longer than 2 MiB when its {name} is inflated: no more is read here",
    )


@pytest.mark.parametrize("name", PACK)
def test_a_bomb_is_refused_before_the_memory_that_it_asks_for_is_taken(name: str) -> None:
    packer = zlib.compressobj(wbits=31 if name == "gzip" else 15)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(64)) + packer.flush()
    assert len(bomb) < MIB / 8
    tracemalloc.start()
    try:
        assert refusal(bomb, name, 4 * MIB)[0] == 413
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * MIB


@pytest.mark.parametrize("name", PACK)
def test_what_is_no_whole_stream_is_400_and_says_so(name: str) -> None:
    packed = PACK[name](b"x" * 1000)
    assert refusal(packed[:-5], name) == (
        400,
        f"the body's {name} stream is cut off: its end is missing",
    )
    assert refusal(packed + b"more", name) == (
        400,
        f"bytes follow the end of the body's {name} stream",
    )
    assert f"the body is no {name} stream" in refusal(b"{}", name)[1]
    assert refusal(packed + packed, name)[0] == 400


def test_only_gzip_and_deflate_are_read() -> None:
    assert refusal(b"x", "br")[0] == 415
    assert "content-encoding is 'gzip, gzip': send it as gzip" in refusal(b"x", "gzip, gzip")[1]
    with pytest.raises(ProtocolError, match="'br'"):
        check_encoding("br")
    for plain in (None, "", "identity", "Identity"):
        assert is_plain(plain)
        assert inflate(b"x", plain, 0) == b"x"
    assert inflate(b"", "gzip", 0) == b""


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(PACK)), st.binary(max_size=200), st.integers(0, 250), st.binary())
def test_whatever_arrives_is_read_or_refused(
    name: str, body: bytes, place: int, put: bytes
) -> None:
    packed = PACK[name](body)
    at = place % len(packed)
    changed = packed[:at] + put + packed[at + len(put) :]
    with contextlib.suppress(ProtocolError):
        assert len(inflate(changed, name, 100)) <= 100
