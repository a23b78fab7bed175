"""`turnout predict` and `turnout feedback`: ask a gateway from the command line.

For people there are sentences and a table; `--json` prints one JSON object. The exit code tells a
program what to do next: 0 done, 1 refused (the same again fails again), 2 wrong usage or a file
that is no context, 3 the gateway was not reached, is busy, or did not answer in time.
"""

import os
import shlex
from typing import Annotated, Any, Final, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table

from backends.protocol import KEPT_NEIGHBORS, MAX_TOP_K
from deploy.contextfile import read_file, read_question, read_vector
from router.client import HERE, AccessError, Answer, Client, ClientError, RequestError

REFUSED: Final = 1
USAGE: Final = 2
UNREACHED: Final = 3
API_KEY: Final = "TURNOUT_API_KEY"
URL: Final = "TURNOUT_GATEWAY_URL"
NOT_FOUND: Final = 404

_err = Console(stderr=True, highlight=False)

Url = Annotated[str, typer.Option("--url", envvar=URL, help="Where the gateway is.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Timeout = Annotated[
    float, typer.Option(help="Seconds that it may take, tries included.", min=0.001)
]


def predict(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-",
            help="The context: .npy or .npz of float32 \\[n, 768], or JSON, a list of vectors or a "
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
        asked = read_question(read_file(file), file)
        with _client(url, timeout) as client:
            answer = client.predict(
                asked.context,
                top_k=top_k or asked.top_k or KEPT_NEIGHBORS,
                key=key or asked.key,
                exclude_context=asked.exclude_context,
                arm=arm,
            )
    except ClientError as error:
        _fail("predict", error, url)
    except ValueError as error:  # the file, or an option that no request can carry
        _end("predict", str(error), USAGE)
    if as_json:
        typer.echo(orjson.dumps(_document(answer), option=orjson.OPT_SERIALIZE_NUMPY))
    else:
        _show(answer, url)


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
    try:
        truth = _truth(target)
        with _client(url, timeout) as client:
            client.feedback(request_id, **truth)
    except ClientError as error:
        _fail("feedback", error, url)
    except ValueError as error:  # as above
        _end("feedback", str(error), USAGE)
    typer.echo('{"queued":true}' if as_json else "taken in")


def _truth(target: str) -> dict[str, Any]:
    """Read the truth: an id, or the vector in a file. Raises FileError."""
    if target.removeprefix("-").isdecimal() and target.isascii():
        return {"target_id": int(target)}
    return {"target": read_vector(target)}


# --- answers ------------------------------------------------------------------------------------


def _client(url: str, timeout_s: float) -> Client:
    return Client(url, api_key=os.environ.get(API_KEY) or None, timeout_s=timeout_s)


def _document(answer: Answer) -> dict[str, Any]:
    return {
        "request_id": answer.request_id,
        "prediction": answer.vector,
        "neighbors": [{"id": one.id, "score": one.score} for one in answer.neighbors],
        "arm": answer.arm,
        "assigned": answer.assigned,
        "stage": answer.stage,
        "version": answer.version,
        "reason": answer.reason,
        "length": answer.length,
        "window": answer.window,
        "truncated": answer.truncated,
        "checkpoint": answer.checkpoint,
        "bank": answer.bank,
    }


def _show(answer: Answer, url: str) -> None:
    console = Console(highlight=False)
    cut = f", of which it read the newest {answer.window}" if answer.truncated else ""
    stands_in = f" for {answer.assigned}, which failed" if answer.fell_back else ""
    told = f"{answer.arm} answered{stands_in} ({answer.reason}): {answer.length} vectors{cut}"
    console.print(told, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for heading in ("rank", "id", "score"):
        table.add_column(heading, justify="right", header_style="dim")
    for rank, one in enumerate(answer.neighbors, start=1):
        table.add_row(str(rank), str(one.id), f"{one.score:.4f}")
    console.print(table)
    console.print(f"\nrequest id {answer.request_id}", markup=False, soft_wrap=True)
    there = "" if url in {HERE, os.environ.get(URL)} else f" --url {shlex.quote(url)}"
    hint = f"the truth, later: turnout feedback {answer.request_id} ID{there}"
    _err.print(hint, markup=False, soft_wrap=True)


def _fail(verb: str, error: ClientError, url: str) -> NoReturn:
    words = str(error)
    if error.status is None:
        words += f" ({url}; --url or TURNOUT_GATEWAY_URL names another)"
    elif isinstance(error, AccessError):
        words += f" (the key is read from {API_KEY})"
    elif error.status == NOT_FOUND and verb == "predict":
        words += f" ({url} is no gateway; --url or TURNOUT_GATEWAY_URL names another)"
    elif error.retry_after_s is not None:
        words += f" (again in {error.retry_after_s:g} s)"
    if error.request_id:
        words += f" [request {error.request_id}]"
    _end(verb, words, REFUSED if isinstance(error, RequestError) else UNREACHED)


def _end(verb: str, words: str, code: int) -> NoReturn:
    _err.print(f"turnout {verb}: {words}", markup=False, soft_wrap=True)
    raise typer.Exit(code)
