"""`python -m router`: settings -> objects -> one gateway.

Exits 0 after SIGTERM or SIGINT, when what was under way is answered and the last batch is sent; 1
when a setting or the port is wrong: the log's last lines say which.
"""

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import structlog

from backends.serving import process, telemetry, tracing
from backends.serving.access import is_loopback
from backends.serving.bounds import Guard
from backends.serving.content import MIB
from backends.serving.environment import WRONG, read_or_exit
from backends.serving.keyfile import KeyFile
from backends.serving.oserrors import in_words
from rollout.feed import Feed, FeedUnavailable
from rollout.snapshot import Heartbeat
from router.app import App
from router.bankids import BankIds
from router.feedback import Feedback
from router.fleet import Models
from router.gateway import Gateway
from router.ids import RANDOM_BYTES, request_id
from router.limits import Budget
from router.metrics import Metrics
from router.observe import Observer
from router.settings import Settings
from router.shadow import Mirror
from router.snapshots import HOLD_FILE, Snapshots
from router.spool import Spool
from router.truths import Truths
from router.upstream import Upstream

BEAT_S: Final = 1.0
IDENTIFY_S: Final = 10.0
LAST_FLUSH_S: Final = 2.0
RESTART_S: Final = 1.0
CANCEL_S: Final = 0.1
NAMES: Final = 256

log = structlog.stdlib.get_logger("router")


class Service:
    """All objects of one gateway, put together, and its background tasks."""

    def __init__(self, settings: Settings) -> None:
        metrics = Metrics(telemetry.new_registry())
        self._settings = settings
        self.guard = Guard(
            settings.limits, registry=metrics.registry, new_request_id=_new_request_id
        )
        keys = KeyFile(settings.keys_file) if settings.keys_file else None
        url = settings.redis_url
        self._feed = Feed(url, tls=settings.redis_tls) if url else None
        self._models = Models()
        self._upstream = Upstream(
            settings.backends, ca_file=settings.ca_file, metrics=metrics, models=self._models
        )
        self._mirrors_upstream = Upstream(
            settings.backends,
            shadow=True,
            connections=settings.mirror_in_flight,
            ca_file=settings.ca_file,
            models=self._models,
        )
        self._snapshots = Snapshots(
            settings.start,
            feed=self._feed,
            arms=self._upstream.arms,
            state_dir=settings.state_dir,
            metrics=metrics,
        )
        self._observer = Observer(
            self._feed,
            metrics,
            boot=uuid.uuid4().hex,
            spool=Spool(max_bytes=settings.spool_mb * MIB),
        )
        self._mirror = Mirror(
            self._mirrors_upstream,
            self._observer,
            Budget(in_flight=settings.mirror_in_flight, bytes_=settings.mirror_max_mb * MIB),
            metrics,
            timeout_s=settings.mirror_timeout_s,
        )
        self._bank_ids = BankIds(self._upstream, self._snapshots)
        self._truths = Truths(self._feed, self._upstream, self._snapshots, self._observer, metrics)
        self._feedback = Feedback(
            self._feed,
            self._upstream,
            self._snapshots,
            self._observer,
            metrics,
            truths=self._truths,
            bank_ids=self._bank_ids,
            label_window_s=settings.label_window_s,
            pending_delay_s=settings.timeout_s + settings.mirror_timeout_s,
        )
        self._edge = App(
            self._gateway(metrics),
            self._feedback,
            self._snapshots,
            self._upstream,
            metrics,
            new_request_id=_new_request_id,
            version=_version(),
            max_context=settings.max_context,
            max_body_mb=settings.max_body_mb,
            max_in_flight=settings.max_in_flight,
            tokens_per_vector=settings.tokens_per_vector,
            keys=keys,
            open_metrics=settings.open_metrics,
            life=self._life,
        )
        self.app = self._edge.app
        self.api = self._edge.api
        self.guard.direct = self._edge.direct

    def leave(self) -> None:
        """Get ready to end: readiness says so, and connections close after their next answer."""
        self._edge.leave()
        self.guard.leaving = True

    def _gateway(self, metrics: Metrics) -> Gateway:
        return Gateway(
            self._snapshots,
            self._upstream,
            self._mirror,
            self._observer,
            metrics,
            timeout_s=self._settings.timeout_s,
            too_long=self._settings.too_long,
            label_window_s=self._settings.label_window_s,
        )

    @contextlib.asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        """Run the background tasks; at the end drain, send what is left, close."""
        settings = self._settings
        await self._ask_store()
        work: list[Callable[[], Awaitable[None]]] = [self._snapshots.watch_hold, self._identify]
        if self._feed:
            work += [
                lambda: self._snapshots.watch(settings.poll_s),
                lambda: self._snapshots.listen(settings.poll_s),
                lambda: self._observer.run(settings.flush_s),
                self._feedback.run,
                self._truths.run,
                self._bank_ids.run,
                self._beat,
            ]
        tasks = [asyncio.create_task(_keep_running(one)) for one in work]
        try:
            yield
        finally:
            await self._mirror.drain()
            await _stop(tasks)
            await self._end()

    async def _ask_store(self) -> None:
        """Ask once, within bounds, so that the first request meets the store's word.

        Nothing that the store holds is a reason not to start: the last configuration serves.
        """
        try:
            await self._snapshots.poll()
        except Exception:
            log.exception("the store's configuration could not be read")

    async def _end(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_FLUSH_S):
                if await self._observer.flush():
                    await self._feedback.drain()
        await asyncio.gather(self._upstream.close(), self._mirrors_upstream.close())
        if self._feed:
            with contextlib.suppress(FeedUnavailable):
                await self._feed.close()

    async def _identify(self) -> None:
        """Ask all replicas now and then what they compute with; answers say it in between."""
        while True:
            await self._upstream.identify()
            await asyncio.sleep(IDENTIFY_S)

    async def _beat(self) -> None:
        while True:
            current = self._snapshots.current
            position = current.position
            heartbeat = Heartbeat(
                boot=self._observer.boot,
                at=time.time(),
                epoch=position.epoch,
                version=position.version,
                held=self._snapshots.held,
                dropped=self._observer.dropped,
                identities=self._models.told(),
                applied=current if current.version else None,
            )
            await self._observer.beat(heartbeat)
            await asyncio.sleep(BEAT_S)


async def _keep_running(work: Callable[[], Awaitable[None]]) -> None:
    """Run a background task until cancelled: one that fails is logged and started again."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("a background task failed")
        await asyncio.sleep(RESTART_S)


async def _stop(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough: redis-py sends under asyncio.wait_for, which in Python 3.11 returns a result
    that comes in together with the cancellation, and drops the cancellation.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_S)


def main() -> None:
    """Run one gateway until it is told to stop."""
    settings = read_or_exit(Settings, "gateway")
    telemetry.configure_logging("gateway", settings.log_level)
    tracing.start("gateway")
    _make_state_dir(settings)
    try:
        service = Service(settings)
    except (OSError, ValueError) as error:
        reason = in_words(error) if isinstance(error, OSError) else str(error)
        log.critical("cannot start", reason=reason)
        raise SystemExit(1) from None
    _say_who_may(settings)
    if settings.redis_url is None:
        log.warning(
            "no store: the tier table alone decides, no rollout reaches this gateway, nothing is "
            "counted and feedback is refused; TURNOUT_REDIS_URL changes that"
        )
    log.info(
        "starting",
        state_dir=str(settings.state_dir.absolute()),
        hold_file=str(settings.state_dir.absolute() / HOLD_FILE),
    )
    process.serve(
        service.app,
        settings.host,
        settings.port,
        drain_s=settings.drain_s,
        guard=service.guard,
        leave_s=settings.leave_s,
        on_leave=service.leave,
    )


def _make_state_dir(settings: Settings) -> None:
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.critical(
            WRONG,
            setting="ROUTER_STATE_DIR",
            reason=f"it must be a folder to write in: {in_words(error)}",
        )
        raise SystemExit(1) from None


def _say_who_may(settings: Settings) -> None:
    if settings.keys_file is None:
        tell = log.info if is_loopback(settings.host) else log.warning
        tell(
            "no API keys: everybody who reaches this address may predict, send feedback and "
            "override; ROUTER_KEYS_FILE changes that",
            host=settings.host,
        )


class _Names:
    """Names requests. The system's random bytes are fetched for many at once."""

    def __init__(self) -> None:
        self._random = b""
        self._at = 0

    def __call__(self) -> str:
        if self._at >= len(self._random):
            self._random, self._at = os.urandom(RANDOM_BYTES * NAMES), 0
        random = self._random[self._at : self._at + RANDOM_BYTES]
        self._at += RANDOM_BYTES
        return request_id(time.time_ns() // 1_000_000, random)


_new_request_id: Final = _Names()


def _version() -> str:
    try:
        return version("turnout")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0"


if __name__ == "__main__":
    main()
