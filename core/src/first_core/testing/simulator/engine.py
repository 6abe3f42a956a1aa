"""The slots of the simulated engine, and the work that fills them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from first_core.testing.simulator.http import Exchange, Work
    from first_core.testing.simulator.settings import SimulatorSettings


def slowdown(call_count: int, sweet_spot: int | None, crowding_ratio: float) -> float:
    """Return how many times longer a token takes with `call_count` calls in an engine.

    1 up to the sweet spot, then a straight line: `crowding_ratio` more for each further
    `sweet_spot` calls, whether they run or wait. It stands for what a crowded engine does beside
    its work: caches that are thrown out and computed again, prompts cut into pieces, long queues
    walked at each step. That engines have such a point and get worse beyond it is assumed, and so
    is the line's slope: neither was measured on a real one.
    """
    if sweet_spot is None or call_count <= sweet_spot:
        return 1.0
    return 1.0 + crowding_ratio * (call_count - sweet_spot) / sweet_spot


class Engine:
    """Runs a bounded number of calls; the others wait in order."""

    def __init__(self, settings: SimulatorSettings, on_change: Callable[[], None]) -> None:
        self._settings = settings
        self.burst = max(1, settings.burst_event_count)
        self.max_running = settings.max_running
        self.running_count = 0
        self.waiting: deque[Exchange] = deque()
        self.prompt_token_count = 0
        self.generation_token_count = 0
        self.finish_counts: Counter[str] = Counter()
        self._on_change = on_change

    @property
    def first_token_delay_s(self) -> float:
        """Seconds before a first token, as full as the engine is now."""
        return self._settings.first_token_delay_s * self._slowdown()

    @property
    def token_interval_s(self) -> float:
        """Seconds from token to token, as full as the engine is now."""
        return self._settings.token_interval_s * self._slowdown()

    def _slowdown(self) -> float:
        settings, call_count = self._settings, self.running_count + len(self.waiting)
        return slowdown(call_count, settings.sweet_spot, settings.crowding_ratio)

    def submit(self, exchange: Exchange, work: Work) -> None:
        """Start `work` now, or when a slot is free."""
        exchange.work = work
        if self.running_count < self.max_running:
            self.occupy(exchange)
            work.start()
        else:
            exchange.slot = "waiting"
            self.waiting.append(exchange)
            self._on_change()

    def occupy(self, exchange: Exchange) -> None:
        """Count an exchange as running, whether or not a slot is free."""
        exchange.slot = "running"
        self.running_count += 1
        self._on_change()

    def leave(self, exchange: Exchange) -> None:
        """Free what the exchange held; the next one in line starts."""
        slot, exchange.slot, exchange.work = exchange.slot, "", None
        if slot == "waiting":
            self.waiting.remove(exchange)
        elif slot == "running":
            self.running_count -= 1
            if self.waiting and self.running_count < self.max_running:
                # By the loop, not by a call: a queue of instant calls would overflow the stack.
                following = self.waiting.popleft()
                self.occupy(following)
                asyncio.get_running_loop().call_soon(_start, following)
        else:
            return
        self._on_change()

    def settle(self, prompt_tokens: int, finishes: Sequence[tuple[str, int]]) -> None:
        """Count a finished call: its prompt, and how each choice ended after how many tokens."""
        self.prompt_token_count += prompt_tokens
        for finish, tokens in finishes:
            self.finish_counts[finish] += 1
            self.generation_token_count += tokens


def _start(exchange: Exchange) -> None:
    if exchange.work is not None:
        exchange.work.start()


class PlainWork:
    """A whole answer, sent when its last token would be there."""

    __slots__ = ("_body", "_content_type", "_engine", "_exchange", "_timer", "_tokens")

    def __init__(
        self, engine: Engine, exchange: Exchange, body: bytes, *, tokens: int, content_type: str
    ) -> None:
        self._engine = engine
        self._exchange = exchange
        self._body = body
        self._tokens = tokens
        self._content_type = content_type
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; called when a slot is free. The pace of this moment holds for the whole answer."""
        engine = self._engine
        delay_s = engine.first_token_delay_s + engine.token_interval_s * max(0, self._tokens - 1)
        if delay_s > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay_s, self._send)
        else:
            self._send()

    def stop(self) -> None:
        """Give up."""
        if self._timer is not None:
            self._timer.cancel()

    def _send(self) -> None:
        self._exchange.plain(200, self._body, content_type=self._content_type)


class StreamWork:
    """A stream at the engine's pace: each tick sends the events of one token."""

    __slots__ = ("_burst", "_due", "_engine", "_exchange", "_loop", "_stopped", "_ticks", "_timer")

    def __init__(
        self, engine: Engine, exchange: Exchange, ticks: Iterator[Sequence[bytes]], *, burst: int
    ) -> None:
        self._engine = engine
        self._exchange = exchange
        self._ticks = ticks
        self._burst = burst
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._stopped = False
        self._due = 0.0

    def start(self) -> None:
        """Begin; called when a slot is free."""
        delay = self._engine.first_token_delay_s
        self._due = self._loop.time() + delay
        if delay > 0:
            self._exchange.flush()
            self._timer = self._loop.call_at(self._due, self._tick)
        else:
            self._tick()

    def stop(self) -> None:
        """Give up."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        exchange = self._exchange
        if self._stopped:
            return
        if exchange.connection.write_paused:
            exchange.connection.on_drained = self._tick
            return
        interval = self._engine.token_interval_s
        events = next(self._ticks, None)
        if events is None:
            exchange.end()
            return
        if interval > 0:
            exchange.events(events)
            self._due += interval
            self._timer = self._loop.call_at(self._due, self._tick)
            return
        batch = list(events)
        for _ in range(self._burst - 1):
            events = next(self._ticks, None)
            if events is None:
                exchange.events(batch)
                exchange.end()
                return
            batch += events
        exchange.events(batch)
        self._timer = self._loop.call_soon(self._tick)
