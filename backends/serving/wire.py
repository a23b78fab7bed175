"""The server's side of a connection: uvicorn's, within bounds of time, bytes and number.

uvicorn waits for ever for a head or a body, keeps a head of any size, and closes a connection at
once after a refusal, which can cost a client that still sends the answer. `guarded` makes a
protocol class that closes these gaps:

- a head must be whole within `head_s` and `head_bytes`, a body within `body_s`; an answer must be
  read within `answer_s`, and the next request begin within `idle_s`. One sweep over all
  connections, twice a second, looks at the clocks, so that a request costs no timer;
- the bodies of requests that are not yet answered may hold `held_bytes` together. What is over it
  is refused with 503, save for bodies of less than `SMALL_BODY`: a few that are long and stalled
  must not shut out the many that are short;
- framing that others may read in another way is refused: `framing.py`. Trailers are dropped: the
  application has read the headers by then;
- a body whose length the head tells does not pass the parser, which would copy it: its bytes are
  counted, and a new parser reads what follows them;
- a plain request may take the short way past the application: `direct.py`; a long body on that way
  is read to where it stays: `inplace.py`;
- when a connection closes while the client still sends, what comes is read and thrown away for a
  while (RFC 9112, section 9.6), so that the application may refuse a body without reading it.

What is refused here gets `{"error": "<sentence>"}` like every other error. The application never
sees such a request; one whose body is cut off sees its client leave.
"""

import asyncio
import urllib.parse
from enum import Enum, auto
from typing import Any, ClassVar, Final, cast

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from backends.serving.bounds import SWEEP_S, Guard
from backends.serving.direct import Call, Take
from backends.serving.exchange import EXCHANGE, WHOLE, Exchange
from backends.serving.framing import HTTP_1_0, Fault, fault_of
from backends.serving.inplace import InPlace

LINGER_S: Final = 2.0
"""How long a client that was refused may go on sending."""
ARRIVED: Final = "arrived"
"""In a scope's state: monotonic seconds when the request's head was whole."""
RETRY_AFTER_S: Final = 1


class _Phase(Enum):
    """What the server waits for on a connection."""

    FIRST = auto()
    """The first byte of all."""
    HEAD = auto()
    BODY = auto()
    WHOLE = auto()
    """The application, and when it has answered the next request."""
    LINGERING = auto()
    """The end of what a refused client still sends."""
    CLOSING = auto()
    """The client, to read what is left of the answer."""


# Every request looks at them several times, and an enum's members are slow to get at.
_HEAD: Final = _Phase.HEAD
_BODY: Final = _Phase.BODY
_WHOLE: Final = _Phase.WHOLE


class _Door(asyncio.Transport):
    """A transport as uvicorn sees it: its `close` lets a client that still sends be answered."""

    def __init__(self, transport: asyncio.Transport, connection: "Connection") -> None:
        super().__init__()
        self.real = transport
        self._connection = connection
        self.write = transport.write  # type: ignore[method-assign] # no call in between
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]

    def close(self) -> None:
        self._connection.part()

    def is_closing(self) -> bool:
        return self._connection.parting or self.real.is_closing()

    def abort(self) -> None:
        self.real.abort()


class Connection(HttpToolsProtocol):
    """One connection. Subclasses say with `guard` which server it belongs to."""

    guard: ClassVar[Guard]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._clock = self.guard.clock
        self._phase = _Phase.FIRST
        self._since = self._clock()
        self.parting = False
        """Whether no more requests are read."""
        self._unread_since: float | None = None
        self._held = 0
        self._head = 0
        """Bytes of this head, as the parser gave them."""
        self._announced = b"0"
        """What this head says of the body's length; the parser has checked it."""
        self._begun = 0
        """Bytes read since this head began, or since the body last grew."""
        self._new = False
        """Whether the message, or a piece of its body, came with the bytes that are being read."""
        self._left = 0
        """Bytes still to come of a body whose length its head told."""
        self._in_place = False
        """Whether such a body is read to where it stays."""
        self._fault: Fault | None = None
        self._door: _Door

    # --- a connection's life --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock; refuse one connection too many."""
        transport = cast("asyncio.Transport", transport)
        self._door = _Door(transport, self)
        super().connection_made(self._door)
        if not self.guard.add(self):
            self.guard.count("connections")
            transport.write(self._refusal(Fault(503, "too many connections are open: try again")))
            self._leave(_Phase.CLOSING)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back what was held."""
        self._leave(_Phase.CLOSING)
        self.guard.discard(self)
        self._give()
        super().connection_lost(exc)
        if self.cycle is not None:
            cast("Exchange | Call", self.cycle).leave()

    def part(self) -> None:
        """Close; while the client still sends, go on reading for a while and throw it away."""
        if self.parting:
            if self._phase is _Phase.CLOSING:
                self._door.real.close()
            return
        sending = self._phase is _BODY or self._fault is not None
        if not sending or not self._door.real.can_write_eof():
            self._leave(_Phase.CLOSING)
            self._door.real.close()
            return
        self._leave(_Phase.LINGERING)
        self.flow.resume_reading()
        if not self._door.real.is_closing():
            self._door.real.write_eof()

    def look(self, now: float) -> None:
        """Cut the connection if what it waits for took too long."""
        limits, waited = self.guard.limits, now - self._since
        match self._phase:
            case _Phase.FIRST | _Phase.HEAD if waited > limits.head_s:
                self._refuse(Fault(408, f"no whole head within {limits.head_s:g} s"), "head")
            case _Phase.BODY if self.flow.read_paused:
                self._since += SWEEP_S  # we do not read: the client is not to blame
            case _Phase.BODY if waited > limits.body_s:
                self._refuse(Fault(408, f"no whole body within {limits.body_s:g} s"), "body")
            case _Phase.WHOLE if waited > limits.idle_s and self.cycle.response_complete:
                self.part()
            case _Phase.LINGERING if waited > LINGER_S:
                self._leave(_Phase.CLOSING)
                self._door.real.close()
            case _Phase.CLOSING if waited > limits.answer_s:
                self._door.real.abort()
        self._look_whether_read(now)

    def _look_whether_read(self, now: float) -> None:
        if not self.flow.write_paused:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since > self.guard.limits.answer_s:
            self.guard.count("unread")
            self._door.real.abort()

    def _enter(self, phase: _Phase) -> None:
        self._phase = phase
        self._since = self._clock()

    def _leave(self, phase: _Phase) -> None:
        """Read no more requests."""
        self._read_as_ever()
        self.parting = True
        self._enter(phase)

    # --- what comes in --------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read what came, unless it belongs to a request that was refused."""
        if self.parting:
            return
        if self._left:
            data = self._counted(data)
            if not data:
                return
        if self._phase is not _HEAD and self._phase is not _BODY:
            self._begin()
        self._new = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            self._refuse(self._fault or Fault(400, "the request's URL is wrong"), "framing")
        except httptools.HttpParserError as error:
            self._refuse(Fault(400, f"the request is not sound HTTP/1.1: {error}"), "framing")
        except httptools.HttpParserUpgrade:
            pass  # it is answered, and the connection closed
        else:
            self._bound(len(data))
            if self._phase is _BODY:
                self._wait_for_body()

    def _counted(self, data: bytes) -> bytes:
        """Take what belongs to the body whose length is known; return what follows it."""
        piece = data if len(data) <= self._left else data[: self._left]
        self._left -= len(piece)
        self._begun = 0
        if not self._took(piece) or self._left:
            return b""
        self._end_body()
        return data[len(piece) :]

    def _end_body(self) -> None:
        """End a body that did not pass the parser: a new one reads what follows it."""
        self.on_message_complete()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's

    def _wait_for_body(self) -> None:
        """Tell whoever reads the body that there is more; read that in place, if wanted."""
        cycle = cast("Exchange | Call", self.cycle)
        cycle.wait()
        room = cycle.room(self._left)
        if room is None:
            return

        def updated(count: int) -> None:
            self._left -= count
            room.filled += count
            self._begun = 0
            if self._holds(count) and not self._left:
                self._read_as_ever()
                self._end_body()

        self._in_place = True
        self._door.real.set_protocol(InPlace(self, room, updated))

    def _read_as_ever(self) -> None:
        if self._in_place:
            self._in_place = False
            self._door.real.set_protocol(self)

    def _begin(self) -> None:
        """Start the clock of a head at its first byte, be it an empty line."""
        if self.cycle is None or self.cycle.response_complete:
            self._enter(_HEAD)

    def _bound(self, read: int) -> None:
        """Bound what the parser keeps for a head or a trailer that does not end."""
        if self._phase is _WHOLE:
            return
        self._begun = 0 if self._new else self._begun + read
        if self._begun > self.guard.limits.head_bytes:
            self._refuse(self._too_large(), "size")

    def on_message_begin(self) -> None:
        """Start the clock of a head."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._announced = b"0"
        self._enter(_HEAD)
        self._head, self._new = 0, True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, as uvicorn does; leave a trailer."""
        if self._phase is not _HEAD:
            return
        self._head += len(name) + len(value)
        name = name.lower()
        if name == b"content-length":
            self._announced = value
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head; hand the request to the application."""
        upgrade = self.parser.should_upgrade()
        version = self.parser.get_http_version()
        if self._head + len(self.url) > self.guard.limits.head_bytes:
            self._fault = self._too_large()
        else:
            self._fault = fault_of(version, self.headers, upgrade=upgrade)
        if self._fault:
            raise ValueError(self._fault.message)
        self._enter(_BODY)
        self._new = True
        self._left = int(self._announced)
        existing = self.cycle
        keep_alive = version != HTTP_1_0 and self.parser.should_keep_alive()
        if upgrade or self.guard.leaving:
            keep_alive = False
        if (take := self._short_way()) is not None:
            call = Call(
                self,
                take,
                arrived=self._since,
                keep_alive=keep_alive,
                expected=self.guard.expect(),
            )
            self.cycle = cast("Exchange", call)  # all that is asked of one here, it answers too
            return
        cycle = self.cycle = self._exchange(
            version, keep_alive=keep_alive, announced=self._left > 0
        )
        if self.expect_100_continue:
            self._close_unless_continued()
        if existing is None or existing.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _short_way(self) -> Take | None:
        """Find the handler that may take this request past the application."""
        take = self.guard.direct.get(self.url)
        if take is None or self.parser.get_method() != b"POST":
            return None
        if (
            not 0 < self._left <= self.guard.direct_bytes
            or self.expect_100_continue
            or self.flow.write_paused
        ):
            return None
        return take if self.cycle is None or self.cycle.response_complete else None

    def hand_over(self, call: Call, pieces: list[bytes]) -> None:
        """Let the application have what no handler took; `pieces` are what there is of its body."""
        self._read_as_ever()
        version = self.parser.get_http_version()
        cycle = self._exchange(version, keep_alive=call.keep_alive, announced=True)
        self.cycle = cycle
        for piece in pieces:
            cycle.feed(piece)
        cycle.more_body = call.more_body
        self._start_asgi_task(cycle, self.app)

    def _exchange(self, version: str, *, keep_alive: bool, announced: bool) -> Exchange:
        """Write the request's scope, as uvicorn does; make what reads and answers it.

        `announced`: the head told the body's length, and it has one.
        """
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        state = self.app_state.copy()
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item] # it has one by now
            "root_path": self.root_path,
            "headers": self.headers,
            "state": state,
            "method": self.parser.get_method().decode("ascii"),
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
        }
        cycle = Exchange(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        state[ARRIVED] = self._since
        state[EXCHANGE] = cycle
        if announced:
            state[WHOLE] = cycle.whole
        return cycle

    def default_head(self) -> bytes:
        """Give the headers of every answer of this server, each with its line's end."""
        return self.guard.default_head(self.server_state.default_headers)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body that came with its head, or in chunks."""
        if self._left:
            self._left -= len(body)
        if not self._took(body):
            raise ValueError("no room")  # the parser must not go on to a next request

    def _took(self, piece: bytes) -> bool:
        """Take a piece of a body; False when there is no room for it, and it is refused."""
        self._new = True
        if self.cycle.response_complete:
            return True
        if not self._holds(len(piece)):
            return False
        cast("Exchange | Call", self.cycle).feed(piece)
        return True

    def _holds(self, count: int) -> bool:
        """Count so many bytes more of a body; False when there is no room, and it is refused."""
        self._held += count
        if self.guard.take(count, of=self._held):
            return True
        self._left = 0
        self._refuse(Fault(503, "too many bytes are being received at once: try again"), "budget")
        return False

    def on_message_complete(self) -> None:
        """Stop the clock, and say that the body is whole."""
        self._enter(_WHOLE)
        if not self.cycle.response_complete:
            cast("Exchange | Call", self.cycle).end()

    def on_response_complete(self) -> None:
        """Give back the bytes of the request that is answered; go on with the next.

        uvicorn's own would start a timer for every answer.
        """
        if self._held:
            self._give()
        self.server_state.total_requests += 1
        if self._phase is _Phase.CLOSING:
            self._door.real.close()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._phase is _WHOLE:
            self._since = self._clock()

    def _give(self) -> None:
        self.guard.held -= self._held
        self._held = 0

    def _too_large(self) -> Fault:
        limit = self.guard.limits.head_bytes
        return Fault(431, f"the request's URL and headers are longer than {limit} bytes")

    def _close_unless_continued(self) -> None:
        """Close after an answer that came instead of `100 Continue`.

        The client may or may not send the body then, so nobody knows where the next request begins.
        """
        cycle = self.cycle
        send = cycle.send

        async def send_and_close(message: Any) -> None:
            if cycle.waiting_for_100_continue:
                cycle.keep_alive = False
            await send(message)

        cycle.send = send_and_close  # type: ignore[method-assign]

    # --- refusals -------------------------------------------------------------------------------

    def _refuse(self, fault: Fault, why: str) -> None:
        """Answer with an error and close, unless an answer is under way: then close after it."""
        if self.parting:
            return
        self._fault = fault
        self.guard.count(why)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            earlier = self._phase is not _Phase.BODY or bool(self.pipeline)
            if earlier or cycle.response_started:
                # Two answers must not mix, nor one be taken for the other's.
                self._cut_after_answer()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        if self._phase is not _Phase.FIRST:
            self.transport.write(self._refusal(fault))
        self._give()
        self.part()

    def _cut_after_answer(self) -> None:
        self.pipeline.clear()
        self._leave(_Phase.CLOSING)
        self.cycle.keep_alive = False

    def _refusal(self, fault: Fault) -> bytes:
        body = orjson.dumps({"error": fault.message})
        lines = [
            STATUS_LINE[fault.status] + b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"connection: close",
        ]
        if fault.status == 503:  # noqa: PLR2004 - the one that passes
            lines.append(b"retry-after: %d" % RETRY_AFTER_S)
        if self.guard.new_request_id:
            lines.append(b"x-request-id: " + self.guard.new_request_id().encode())
        return b"\r\n".join([*lines, b"", body])


def guarded(guard: Guard) -> type[Connection]:
    """Make the protocol class of one server, for `uvicorn.Config(http=...)`."""
    return type("GuardedConnection", (Connection,), {"guard": guard})
