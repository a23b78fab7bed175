"""What nobody should send, sent to a real model server: it says what is wrong, and goes on."""

import gzip
import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from module_process import DEADLINE_S
from test_backend_process import VECTORS, running

from backends.protocol import HEADER_LENGTH, OUTPUTS, Request, write_request

INFER = "/v2/models/lvm/infer"
MIB = 1 << 20
CONTEXT = VECTORS[:3]
LIMITS = {"MAX_LENGTH": "5", "MAX_CONTEXT": "50", "MAX_BODY_MB": "4"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    with running(tmp_path_factory.mktemp("backend"), **LIMITS) as backend:
        backend.event("ready")
        url = backend.event("listening")["url"]
        with httpx2.Client(base_url=url, timeout=DEADLINE_S) as client:
            yield client


def document(vectors: Any = CONTEXT, *, beside: Any = None, **tensor: Any) -> bytes:
    """Write a JSON request; `tensor` replaces fields of its input, `beside` adds to the request."""
    array = np.asarray(vectors, np.float64)
    own = {
        "name": "CONTEXT",
        "shape": [1, *array.shape],
        "datatype": "FP32",
        "data": array.ravel().tolist(),
    }
    return json.dumps({"inputs": [{**own, **tensor}], **(beside or {})}).encode()


def framed(tail: bytes = CONTEXT.tobytes(), *, size: Any = None, **tensor: Any) -> Any:
    """Write a binary request, with its header."""
    own = {"name": "CONTEXT", "shape": [1, 3, 768], "datatype": "FP32"}
    parameters = {"binary_data_size": len(tail) if size is None else size}
    head = json.dumps({"inputs": [{**own, "parameters": parameters, **tensor}]}).encode()
    return head + tail, {HEADER_LENGTH: str(len(head))}


def raw(vectors: Any, header: str = "0") -> Any:
    return np.asarray(vectors, np.float32).tobytes(), {HEADER_LENGTH: header}


def with_value(value: float) -> Any:
    vectors = CONTEXT.astype(np.float64)
    vectors[1, 2] = value
    return vectors


def packed(body: bytes) -> Any:
    return gzip.compress(body, 1, mtime=0), {"content-encoding": "gzip"}


BAD: dict[str, tuple[Any, int, str]] = {
    "rank": (document(shape=[3, 768]), 400, "inputs[0].shape is [3, 768]: CONTEXT has the shape"),
    "rank in binary": (framed(shape=[3, 768]), 400, "inputs[0].shape is [3, 768]"),
    "batch": (document(shape=[2, 3, 768]), 400, "CONTEXT has the shape [1, n, 768], n >= 1"),
    "dimension": (document(np.ones((3, 512))), 400, "inputs[0].shape is [1, 3, 512]"),
    "dimension in binary": (framed(shape=[1, 3, 512]), 400, "inputs[0].shape is [1, 3, 512]"),
    "dtype": (document(datatype="FP64"), 400, "inputs[0].datatype is 'FP64': CONTEXT is \"FP32\""),
    "dtype in binary": (framed(datatype="FP16"), 400, "inputs[0].datatype is 'FP16'"),
    "text": (document(data=["1"] * 2304), 400, "inputs[0].data[0] must be a number, not a text"),
    "numbers against shape": (
        document(shape=[1, 4, 768]),
        400,
        "holds 2304 numbers, but the shape [1, 4, 768] needs 3072",
    ),
    "bytes against shape": (
        framed(shape=[1, 4, 768]),
        400,
        "holds 9216 bytes of tensor data, but the shape [1, 4, 768] needs 12288",
    ),
    "bytes against size": (framed(size=9212), 400, "binary_data_size is 9212, but 9216 bytes"),
    "a negative size": (framed(size=-1), 400, "binary_data_size is -1, but 9216 bytes follow"),
    "half a float": (framed(CONTEXT.tobytes()[:-2]), 400, "9214 bytes of tensor data: it must be"),
    "raw bytes": (raw(np.ones(767)), 400, "must be a positive multiple of 3072 (768 float32)"),
    "NaN": (document(data=[float("nan")] * 2304), 400, "NaN and Infinity are no JSON numbers"),
    "NaN in binary": (
        framed(with_value(np.nan).astype(np.float32).tobytes()),
        400,
        "inputs[0][1][2] is NaN",
    ),
    "infinity": (document(with_value(1e39)), 400, "[1][2] is beyond the range of float32"),
    "infinity in raw": (raw(with_value(np.inf)), 400, "the body[1][2] is beyond the range"),
    "a number that overflows squared": (raw(with_value(-1e18)), 400, "the body[1][2] is -1e+18:"),
    "nothing": (document(np.ones((0, 768))), 400, "inputs[0].shape is [1, 0, 768]"),
    "nothing in raw": (raw(np.ones(0)), 400, "the body holds 0 bytes of tensor data"),
    "too long": (document(np.ones((51, 768))), 413, "51 vectors: this server accepts at most 50"),
    "too long in raw": (raw(np.ones((51, 768))), 413, "51 vectors: this server accepts at most"),
    "a negative length": (raw(CONTEXT, "-1"), 400, "Content-Length is '-1': it must be a whole"),
    "a lying length": (raw(CONTEXT, "9217"), 400, "a whole number from 0 to the body's 9216"),
    "a length within the floats": (
        (framed()[0], {HEADER_LENGTH: str(len(framed()[0]) - 9)}),
        400,
        "the body is no JSON",
    ),
    "a bomb": (packed(bytes(64 * MIB)), 413, "longer than 4 MiB when its gzip is inflated"),
    "a damaged stream": ((packed(b"{}")[0][:-4], packed(b"")[1]), 400, "stream is cut off"),
    "another encoding": ((b"x", {"content-encoding": "zstd"}), 415, "content-encoding is 'zstd'"),
    "too many bytes": (bytes(5 * MIB), 413, "the body is longer than 4 MiB"),
    "an unknown output": (
        document(beside={"outputs": [{"name": "SCORE"}]}),
        400,
        "outputs[0] names 'SCORE': the outputs are PREDICTION, NEIGHBOR_IDS, NEIGHBOR_SCORES",
    ),
    "an unknown input": (document(name="INPUT"), 400, "inputs[0].name is 'INPUT': the model reads"),
}


@pytest.mark.parametrize("name", BAD)
def test_every_bad_input_is_refused_by_name(client: httpx2.Client, name: str) -> None:
    sent, status, words = BAD[name]
    content, headers = sent if isinstance(sent, tuple) else (sent, {})
    answer = client.post(INFER, content=content, headers=headers)
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    assert answer.status_code == status


GOOD: list[tuple[bytes, dict[str, str]]] = [
    (document(beside={"parameters": {"top_k": 3}, "outputs": [{"name": OUTPUTS[0]}]}), {}),
    (document(data=[CONTEXT.tolist()]), {}),
    framed(),
    raw(CONTEXT),
    packed(document()),
]


def mutated(chance: random.Random) -> tuple[str, bytes, dict[str, str]]:
    """Change a good request: a byte for another, or in up to four places whatever comes."""
    body, headers = chance.choice(GOOD)
    if chance.random() < 0.4:
        at = chance.randrange(len(body))
        body = body[:at] + bytes([chance.choice(b"0123456789") ^ (body[at] & 1)]) + body[at + 1 :]
        return INFER, body, headers
    for _ in range(chance.randint(1, 4)):
        at = int(chance.random() * (min(300, len(body)) if chance.random() < 0.5 else len(body)))
        put = chance.choice(
            [b"", b"[", b"]", b"{", b"}", b",", b'"', b"null", b"-1", b"1e999", b"\0", b"\xff"]
        )
        body = body[:at] + put + body[at + chance.randint(0, 8) :]
    if chance.random() < 0.3:
        headers = {HEADER_LENGTH: chance.choice(["0", "-1", "1", "x", "300", "99999", "1e3"])}
    if chance.random() < 0.2:
        headers = {**headers, "content-encoding": chance.choice(["gzip", "deflate", "br", ""])}
    return chance.choice([INFER, INFER, INFER, "/v2/models/lvm/lookup"]), body, headers


def test_after_hundreds_of_mutated_bodies_the_answer_is_bit_for_bit_the_same(
    client: httpx2.Client,
) -> None:
    message = write_request(Request(CONTEXT, binary_outputs=frozenset(OUTPUTS)))
    good = {"content": message.body, "headers": dict(message.headers)}
    before = client.post(INFER, **good)  # type: ignore[arg-type]  # a body and its headers
    chance = random.Random(4)  # noqa: S311 - the same requests each time
    statuses: dict[int, int] = {}
    for _ in range(250):
        path, body, headers = mutated(chance)
        answer = client.post(path, content=body, headers=headers)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert answer.status_code in {200, 400, 413, 415}, (answer.text, path, headers, body[:500])
    assert min(statuses[200], statuses[400]) > 10
    after = client.post(INFER, **good)  # type: ignore[arg-type]  # a body and its headers
    again = before.content.replace(b'"prefix":"miss"', b'"prefix":"hit"')  # by now it is known
    assert (after.status_code, after.content) == (200, again)


@pytest.mark.parametrize(
    ("path", "more", "size", "status"),
    [
        ("/v2/models/other/infer", "", 7 * MIB, b"404"),
        (INFER, "x-request-timeout-ms: soon\r\n", 7 * MIB, b"400"),
        (INFER, "content-encoding: br\r\n", 7 * MIB, b"415"),
        (INFER, "", 7 * MIB, b"413"),
    ],
)
def test_a_refusal_reaches_a_client_that_sends_to_the_end_before_it_reads(
    client: httpx2.Client, path: str, more: str, size: int, status: bytes
) -> None:
    url = client.base_url
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {size}\r\n"
    with socket.create_connection((url.host, url.port or 0), DEADLINE_S) as connection:
        connection.sendall(f"{head}{more}\r\n".encode())
        for _ in range(size // MIB):
            connection.sendall(bytes(MIB))
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b'{"error":"' in answer
