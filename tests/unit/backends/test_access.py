import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.serving import access
from backends.serving.access import Key, KeyFileError, KeyRing, Refusal, Right, authorize, read_keys
from backends.serving.keyfile import KeyFile

SECRET = access.new_key(bytes(32))
OTHER = access.new_key(bytes(31) + b"\x01")
TEAM = Key("search-team", frozenset({Right.PREDICT, Right.FEEDBACK}), access.digest_of(SECRET))
RING = KeyRing([Key("else", frozenset({Right.OVERRIDE}), access.digest_of(OTHER)), TEAM])


def test_a_key_is_its_prefix_and_256_random_bits_in_base64url() -> None:
    assert SECRET == "turnout_" + 43 * "A"
    with pytest.raises(ValueError, match="32 random bytes, not 16"):
        access.new_key(bytes(16))


def test_a_key_with_the_right_is_let_in_and_named() -> None:
    assert authorize(RING, f"Bearer {SECRET}", Right.PREDICT) is TEAM
    assert authorize(RING, f"bearer   {SECRET} ", Right.FEEDBACK) is TEAM


@pytest.mark.parametrize(
    ("header", "message", "challenge"),
    [
        (None, "an API key is needed: send the header Authorization: Bearer KEY", ""),
        ("Basic dTpw", "Authorization must be Bearer and a key", ', error="invalid_token"'),
        ("Bearer", "this API key is not known here", ', error="invalid_token"'),
        (f"Bearer {SECRET}x", "this API key is not known here", ', error="invalid_token"'),
        (f"Bearer {'x' * 5000}", "this API key is not known here", ', error="invalid_token"'),
        ("Bearer \udce4", "this API key is not known here", ', error="invalid_token"'),
    ],
)
def test_no_key_or_an_unknown_one_is_401_with_a_challenge(
    header: str | None, message: str, challenge: str
) -> None:
    expected = Refusal(401, message, f'Bearer realm="turnout"{challenge}')
    assert authorize(RING, header, Right.PREDICT) == expected


def test_a_key_without_the_right_is_403_and_told_which_it_lacks() -> None:
    refusal = authorize(RING, f"Bearer {SECRET}", Right.OVERRIDE)
    assert refusal == Refusal(
        403,
        'the API key of "search-team" lacks the right "override"; it has feedback, predict',
        'Bearer realm="turnout", error="insufficient_scope", scope="override"',
    )


def test_a_gateways_key_is_good_for_nothing_at_the_controller() -> None:
    everything = Key("all", frozenset({Right.PREDICT, Right.FEEDBACK, Right.OVERRIDE}), "0" * 64)
    ring = KeyRing([Key(everything.name, everything.rights, access.digest_of(SECRET))])
    for right in (Right.VIEWER, Right.STOPPER, Right.OPERATOR, Right.APPROVER):
        refusal = authorize(ring, f"Bearer {SECRET}", right)
        assert isinstance(refusal, Refusal)
        assert refusal.status == 403


def test_no_ring_shows_a_key_or_its_hash() -> None:
    assert repr(RING) == "<KeyRing of else, search-team>"


@given(st.sets(st.sampled_from(list(Right)), min_size=1), st.binary(min_size=32, max_size=32))
def test_a_line_that_is_written_reads_back(rights: set[Right], random: bytes) -> None:
    secret = access.new_key(random)
    key = Key("a.b_c@d-1", frozenset(rights), access.digest_of(secret))
    ring = read_keys(f"# keys\n\n  {key}  # until summer\n")
    assert ring.find(secret) == key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SECRET, "line 1: 1 words, where NAME RIGHT,RIGHT sha256:HASH is wanted"),
        (f"a predict {SECRET}", 'line 1: the hash of "a" must be sha256: and 64 hex'),
        (f"# ok\n-a predict sha256:{'0' * 64}", "line 2: a name has 1 to 64 letters"),
        (f"a admin sha256:{'0' * 64}", "no right is called 'admin': the rights are predict, fee"),
        (f"{TEAM}\n{TEAM}", 'line 2: the name "search-team" stands twice'),
    ],
)
def test_a_wrong_line_is_named_and_never_shows_a_key(text: str, message: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        read_keys(text)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 - what must be refused
        ("::", False),
        ("10.0.0.1", False),
        ("gateway.internal", False),
    ],
)
def test_only_a_loopback_address_may_do_without_keys(host: str, loopback: bool) -> None:
    reason = access.exposed(host, has_keys=False, is_open=False, what="THIS")
    assert (reason is None) is loopback
    assert access.exposed(host, has_keys=True, is_open=False, what="") is None
    assert access.exposed(host, has_keys=False, is_open=True, what="") is None


# --- the file -----------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_changed_file_is_in_force_within_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Clock()
    path.write_text(f"{TEAM}\n")
    file = KeyFile(path, clock=clock)
    assert file.keys.find(SECRET) == TEAM
    path.write_text("# nobody\n")
    clock.now = 0.9
    assert file.keys.find(SECRET) == TEAM
    clock.now = 1.0
    assert file.keys.find(SECRET) is None


@pytest.mark.parametrize("broken", [None, "nonsense\n", b"\xff\xfe"])
def test_a_file_that_went_wrong_leaves_the_keys_as_they_were_until_it_is_well(
    tmp_path: Path, broken: str | bytes | None
) -> None:
    path, clock = tmp_path / "keys", Clock()
    path.write_text(f"{TEAM}\n")
    file = KeyFile(path, clock=clock)
    path.unlink()
    if broken is not None:
        path.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    for clock.now in (1.0, 2.0, 3.0):
        assert file.keys.find(SECRET) == TEAM
    path.write_text("")
    clock.now = 4.0
    assert len(file.keys) == 0


def test_a_server_does_not_start_with_a_file_that_is_missing_or_wrong(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"cannot be read: .*No such file"):
        KeyFile(tmp_path / "none")
    (tmp_path / "keys").write_text("a predict 123")
    with pytest.raises(KeyFileError, match="keys: line 1: the hash of"):
        KeyFile(tmp_path / "keys")


def test_an_untouched_file_is_not_read_again(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Clock()
    path.write_text(f"{TEAM}\n")
    file = KeyFile(path, clock=clock)
    ring = file.keys
    clock.now = 5.0
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    assert file.keys is ring
