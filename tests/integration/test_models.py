"""Which models a report compares: what backends tell, and what they do not."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rollout.models import identities
from rollout.reporting.document import Model

FACTS = {"arm": "phase1", "checkpoint": "c" * 64, "bank": "b" * 64, "trained": False}


class Backend(BaseHTTPRequestHandler):
    """A backend under `/good`, and something else anywhere else."""

    def do_GET(self) -> None:
        """Answer one question."""
        good = self.path == "/good/v2/models/lvm"
        body = json.dumps({"name": "lvm", "parameters": FACTS} if good else [1]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Stay silent."""


@pytest.fixture
def backend() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Backend) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_an_arm_that_does_not_tell_is_left_out(backend: str) -> None:
    urls = {"phase1": f"{backend}/good", "phase2": f"{backend}/bad", "phase3": "http://127.0.0.1:1"}
    told = Model(checkpoint="c" * 64, bank="b" * 64, trained=False)
    assert await identities(urls) == {"phase1": told}


async def test_nobody_is_asked_when_nobody_is_named() -> None:
    assert await identities({}) == {}
