"""The names of requests."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.ids import RANDOM_BYTES, admitted_at, request_id

MILLISECONDS = st.integers(0, (1 << 48) - 1)
RANDOM = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


def test_the_example_of_the_rfc_comes_out() -> None:
    # RFC 9562, appendix A.6: rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F
    random = (0xCC3 << 68 | 0x18C4DC0C0C07398F).to_bytes(RANDOM_BYTES, "big")
    assert request_id(0x017F22E279B0, random) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(MILLISECONDS, RANDOM)
def test_a_name_is_a_uuid_of_version_7_that_tells_its_admission(
    unix_ms: int, random: bytes
) -> None:
    name = request_id(unix_ms, random)
    assert (uuid.UUID(name).version, uuid.UUID(name).variant) == (7, uuid.RFC_4122)
    assert admitted_at(name) == unix_ms / 1000


@given(MILLISECONDS, MILLISECONDS, RANDOM)
def test_names_sort_by_admission(one: int, other: int, random: bytes) -> None:
    if one < other:
        assert request_id(one, random) < request_id(other, random)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "my-own-id",
        str(uuid.UUID(int=0)),
        "b1f0e7a4-59a8-4a08-8a4a-5d3b06f2a1c0",  # version 4
        "017F22E2-79B0-7CC3-98C4-DC0C0C07398F",  # not as we write it
        "017f22e2-79b0-7cc3-c8c4-dc0c0c07398f",  # another variant
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f\n",
    ],
)
def test_what_this_service_did_not_issue_has_no_admission(name: str) -> None:
    assert admitted_at(name) is None


@pytest.mark.parametrize(("unix_ms", "random"), [(-1, bytes(10)), (1 << 48, bytes(10)), (0, b"")])
def test_a_name_needs_its_bits(unix_ms: int, random: bytes) -> None:
    with pytest.raises(ValueError, match="48 bits"):
        request_id(unix_ms, random)
