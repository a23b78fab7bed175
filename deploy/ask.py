"""`turnout predict` and `turnout feedback`: ask a gateway from the command line.

For people there are sentences and a table; `--json` prints one JSON object. The exit code tells a
program what to do next: 0 done, 1 refused (the same again fails again), 2 wrong usage or a file
that is no context, 3 the gateway was not reached, is busy, or did not answer in time.
"""

import io
import os
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import numpy as np
import orjson
import typer
from rich.console import Console
from rich.table import Table

from backends.protocol import (
    KEPT_NEIGHBORS,
    MAX_TOP_K,
    Floats,
    ProtocolError,
    read_lookup,
    read_predict,
)
from router.client import HERE, AccessError, Answer, Client, ClientError, RequestError

REFUSED: Final = 1
USAGE: Final = 2
UNREACHED: Final = 3
API_KEY: Final = "TURNOUT_API_KEY"
STDIN: Final = "-"
MAX_VECTORS: Final = 1_000_000
_NPY: Final = b"\x93NUMPY"
_ZIP: Final = b"PK\x03\x04"
_NAMES: Final = ("context", "vectors")

_err = Console(stderr=True, highlight=False)

Url = Annotated[
    str, typer.Option("--url", envvar="TURNOUT_GATEWAY_URL", help="Where the gateway is.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Timeout = Annotated[
    float, typer.Option(help="Seconds that it may take, tries included.", min=0.001)
]


@dataclass(frozen=True, slots=True)
class Question:
    """A context `[n, 768]`, and what its file says besides."""

    context: Floats
    key: str | None = None
    top_k: int | None = None
    exclude_context: bool = True


class FileError(ValueError):
    """A file that holds no context; the message says what was found and what would be right."""


def predict(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-",
            help="The context: .npy or .npz of float32 [n, 768], or JSON, a list of vectors or a "
            "/v1/predict body; - reads stdin.",
        ),
    ],
    url: Url = HERE,
    key: Annotated[
        str | None, typer.Option(help="Routing key: equal keys stay with one model.")
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            help=f"Neighbours to print; {KEPT_NEIGHBORS} without it.", min=1, max=MAX_TOP_K
        ),
    ] = None,
    arm: Annotated[
        str | None, typer.Option(help="The model that must answer; needs the right override.")
    ] = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Predict the next vector of a context, and list its nearest neighbours in the bank.

    An API key, where the gateway wants one, comes from TURNOUT_API_KEY.
    Exit codes: 0 done, 1 refused, 2 wrong usage or file, 3 not reached, busy or too late.

    Example: turnout example 300 | turnout predict - --top-k 3
    """
    try:
        asked = read_question(_read(file), file)
    except (FileError, OSError) as error:
        _end("predict", str(error), USAGE)
    with _client(url, timeout) as client:
        try:
            answer = client.predict(
                asked.context,
                top_k=top_k or asked.top_k or KEPT_NEIGHBORS,
                key=key or asked.key,
                exclude_context=asked.exclude_context,
                arm=arm,
            )
        except ClientError as error:
            _fail("predict", error, url)
    if as_json:
        typer.echo(orjson.dumps(_document(answer), option=orjson.OPT_SERIALIZE_NUMPY))
    else:
        _show(answer)


def feedback(
    request_id: Annotated[
        str, typer.Argument(metavar="ID", help="The x-request-id of the prediction.")
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="What really came: an id of the bank, or a file (or -) with its vector.",
        ),
    ],
    url: Url = HERE,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Tell the truth of an earlier prediction: it becomes Hit@1/5/10 of the arms that answered.

    A repeat changes nothing. Exit codes as of `turnout predict`.

    Example: turnout feedback 019aac1e-7a51-7c2d-b1f0-0123456789ab 17
    """
    truth: dict[str, Any]
    try:
        truth = {"target_id": int(target)} if _is_id(target) else {"target": _vector(target)}
    except (FileError, OSError) as error:
        _end("feedback", str(error), USAGE)
    with _client(url, timeout) as client:
        try:
            client.feedback(request_id, **truth)
        except ClientError as error:
            _fail("feedback", error, url)
    typer.echo('{"queued":true}' if as_json else "taken in")


# --- files --------------------------------------------------------------------------------------


def _read(file: str) -> bytes:
    return sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()


def read_question(data: bytes, name: str) -> Question:
    """Read a context from the bytes of a file. Raises FileError."""
    if data.startswith((_NPY, _ZIP)):
        return Question(_checked(_array(data, name), name))
    text = data.strip()
    if not text:
        raise FileError(f"{name} is empty: a context is .npy, .npz or JSON")
    if text.startswith(b"["):
        text = b'{"context":' + text + b"}"
    try:
        found = read_predict(text, max_length=MAX_VECTORS)
    except ProtocolError as error:
        raise FileError(
            f"{name} is neither .npy nor .npz, and no context in JSON: {error}"
        ) from None
    given = b'"top_k"' in text
    return Question(found.context, found.key, found.top_k if given else None, found.exclude_context)


def _array(data: bytes, name: str) -> Any:
    """Read the array of an .npy, or of an .npz its `context`, `vectors` or only one."""
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        return _chosen(loaded, name) if isinstance(loaded, Mapping) else loaded
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise FileError(f"{name} cannot be read: {error}") from None


def _chosen(arrays: Mapping[str, Any], name: str) -> Any:
    names = list(arrays)
    for wanted in (*_NAMES, *(names if len(names) == 1 else ())):
        if wanted in names:
            return arrays[wanted]
    raise FileError(
        f"{name} holds {', '.join(names) or 'nothing'}: the context must be called context or "
        "vectors, or be alone"
    )


def _checked(array: Any, name: str) -> Floats:
    if array.dtype.kind not in "fiu":
        raise FileError(f"{name} holds {array.dtype}: a context is float32 [n, 768]")
    found: Floats = np.atleast_2d(array).astype(np.float32)
    if found.ndim != 2 or not found.size or found.shape[1] != 768:  # noqa: PLR2004 - rows, columns
        raise FileError(f"{name} has the shape {list(array.shape)}: a context is [n, 768]")
    if not np.isfinite(found).all():
        raise FileError(f"{name} holds numbers that are not finite")
    return found


def _is_id(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()


def _vector(file: str) -> Floats:
    data = _read(file)
    if data.lstrip().startswith(b"[") and not data.lstrip()[1:].lstrip().startswith(b"["):
        try:
            return read_lookup(b'{"vector":' + data + b"}")
        except ProtocolError as error:
            raise FileError(f"{file}: {error}") from None
    found = read_question(data, file).context
    if len(found) != 1:
        raise FileError(f"{file} holds {len(found)} vectors: the truth is one")
    vector: Floats = found[0]
    return vector


# --- answers ------------------------------------------------------------------------------------


def _client(url: str, timeout_s: float) -> Client:
    return Client(url, api_key=os.environ.get(API_KEY) or None, timeout_s=timeout_s)


def _document(answer: Answer) -> dict[str, Any]:
    return {
        "request_id": answer.request_id,
        "prediction": answer.vector,
        "neighbors": [{"id": one.id, "score": one.score} for one in answer.neighbors],
        "arm": answer.arm,
        "reason": answer.reason,
        "length": answer.length,
        "truncated": answer.truncated,
        "checkpoint": answer.checkpoint,
        "bank": answer.bank,
    }


def _show(answer: Answer) -> None:
    console = Console(highlight=False)
    cut = ", of which it read the newest" if answer.truncated else ""
    console.print(f"{answer.arm} answered ({answer.reason}): {answer.length} vectors{cut}")
    table = Table(box=None, pad_edge=False)
    for heading in ("rank", "id", "score"):
        table.add_column(heading, justify="right", header_style="dim")
    for rank, one in enumerate(answer.neighbors, start=1):
        table.add_row(str(rank), str(one.id), f"{one.score:.4f}")
    console.print(table)
    console.print(f"\nrequest id {answer.request_id}", soft_wrap=True)
    _err.print(f"the truth, later: turnout feedback {answer.request_id} ID", soft_wrap=True)


def _fail(verb: str, error: ClientError, url: str) -> NoReturn:
    words = str(error)
    if error.status is None:
        words += f" ({url}; --url or TURNOUT_GATEWAY_URL names another)"
    elif isinstance(error, AccessError):
        words += f" (the key is read from {API_KEY})"
    elif error.retry_after_s is not None:
        words += f" (again in {error.retry_after_s:g} s)"
    if error.request_id:
        words += f" [request {error.request_id}]"
    _end(verb, words, REFUSED if isinstance(error, RequestError) else UNREACHED)


def _end(verb: str, words: str, code: int) -> NoReturn:
    _err.print(f"turnout {verb}: {words}", markup=False, soft_wrap=True)
    raise typer.Exit(code)
