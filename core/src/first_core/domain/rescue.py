"""The order of rescue: the same model elsewhere, the same endpoint again, a fallback model."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from first_core.domain.faults import blame, is_out_of_time, is_prompt_too_long
from first_core.domain.tried import Tried
from first_core.errors import (
    BackendError,
    BackendUnavailableError,
    CapacityError,
    FirstError,
    NotFoundError,
    OverloadedError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from first_core.clock import Clock
    from first_core.domain.admission import Admission, Entry, Progress, WaitTerms
    from first_core.domain.calls import IncomingCall
    from first_core.domain.catalog import Endpoint
    from first_core.domain.ledger import Attempt, Ledger
    from first_core.domain.retries import RetryBudget
    from first_core.domain.routes import Route, Routes, Target
    from first_core.plugin.policy import RouteRequest
    from first_core.settings import ResilienceSettings

T = TypeVar("T")


class Rescue:
    """Runs attempts of one call until one answers, a byte has reached the client, or none is left.

    Args:
        incoming: The call.
        ledger: Its account.
        routes: Resolves models.
        admission: Finds room.
        budget: Pays for further attempts.
        settings: The section `resilience`.
        clock: The time.
        request: Makes what policies may know of the call, for a model.
        terms: How the call waits.
        tell: Told why it waits.
    """

    def __init__(
        self,
        incoming: IncomingCall,
        ledger: Ledger,
        *,
        routes: Routes,
        admission: Admission,
        budget: RetryBudget,
        settings: ResilienceSettings,
        clock: Clock,
        request: Callable[[Route], RouteRequest],
        terms: WaitTerms,
        tell: Callable[[Progress], Awaitable[None]] | None,
    ) -> None:
        self._incoming = incoming
        self._ledger = ledger
        self._routes = routes
        self._admission = admission
        self._budget = budget
        self._settings = settings
        self._clock = clock
        self._request = request
        self._terms = terms
        self._tell = tell
        self._model = ""
        self._reserved_count = 0
        """Attempts that are kept for fallback models, where the site has configured any."""

    async def run(self, model: str, attempt: Callable[[Endpoint, Attempt], Awaitable[T]]) -> T:
        """Run `attempt` on endpoints of `model`, then on its fallbacks.

        Raises:
            FirstError: The failure at the model that was asked for.
        """
        route = self._resolve(model)
        self._ledger.requested_model = route.model
        self._budget.earn()
        self._reserved_count = int(bool(route.fallbacks))
        try:
            return await self._at_model(route, attempt)
        except FirstError as exc:
            failure = exc
        for place, name in enumerate(route.fallbacks, start=1):
            self._reserved_count = int(place < len(route.fallbacks))
            fallback = self._routes.resolve(name)
            if fallback is None or not self._fits_prompt(route, fallback, failure):
                continue
            if not self._may_fall_back(failure):
                break
            try:
                return await self._at_model(fallback, attempt)
            except FirstError as exc:
                if self._ledger.has_begun:
                    raise
                self._ledger.fell_back(exc)
        raise failure

    def may_continue(self) -> bool:
        """Tell whether the budgets allow one more attempt elsewhere, and pay for it."""
        return self._has_attempts() and self._budget.spend()

    async def run_elsewhere(
        self,
        where_not: Sequence[Endpoint],
        attempt: Callable[[Endpoint, Attempt], Awaitable[T]],
        *,
        fits: Callable[[Endpoint], bool] = lambda _: True,
        waits: bool = False,
    ) -> T:
        """Run one attempt on another endpoint of the model that is being tried now.

        Args:
            where_not: Endpoints that this call has been at, the last one out of the question.
            attempt: Runs it.
            fits: Tells which endpoints are good for it.
            waits: Whether it waits for room as any call does.

        Raises:
            OverloadedError: There is no endpoint with room that fits.
            FirstError: What the attempt raised.
        """
        route = self._resolve(self._model)
        ready = [t for t in self.targets(route) if t.endpoint.is_ready and fits(t.endpoint)]
        fresh = [t for t in ready if t.endpoint not in where_not]
        others = fresh or [t for t in ready if t.endpoint is not where_not[-1]]
        request = self._request(route)
        entry = self._admission.try_enter(route.policy, request, others)
        if entry is None and others and waits:
            entry = await self._admission.enter(route.policy, request, others, self._terms)
        if entry is None:
            raise OverloadedError("no other endpoint has room", retry_after_s=1.0)
        return await self._attempt(entry, attempt)

    def _resolve(self, model: str) -> Route:
        route = self._routes.resolve(model)
        if route is None or not route.targets:
            raise NotFoundError(
                f"the model {model!r} does not exist; GET /v1/models lists those that do",
                metadata={"model": model},
            )
        return route

    def _may_fall_back(self, failure: FirstError) -> bool:
        fits = isinstance(failure, CapacityError | BackendError) or is_prompt_too_long(failure)
        if not fits or is_out_of_time(failure) or self._incoming.is_relayed:
            return False
        if self._ledger.has_begun or not self._has_attempts():
            return False
        # What asked no endpoint costs none anything.
        return self._ledger.attempt_count == 0 or self._budget.spend()

    def _fits_prompt(self, route: Route, fallback: Route, failure: FirstError) -> bool:
        """A prompt that is too long goes only to a model with a larger window."""
        if not is_prompt_too_long(failure):
            return True
        return _window(fallback) > _window(route)

    def _has_attempts(self, *, but: int = 0) -> bool:
        return self._ledger.attempt_count + but < self._settings.max_attempts

    def targets(self, route: Route) -> list[Target]:
        """Return the targets that fit the call's pin and operation.

        Raises:
            NotFoundError: None fits the pin.
            UnsupportedError: None can do the operation.
        """
        pin, operation = self._incoming.pin, self._incoming.operation
        found: Sequence[Target] = route.targets
        if self._incoming.is_relayed:
            found = self._within_reach(found)
        if pin.cluster or pin.framework or pin.replica:
            found = [t for t in found if pin.fits(t.report.id)]
            if not found:
                place = "/".join(part for part in (pin.cluster, pin.framework) if part)
                raise NotFoundError(
                    f"the model {route.model!r} is not served on {place!r}",
                    metadata={
                        "model": route.model,
                        "cluster": pin.cluster,
                        "framework": pin.framework,
                    },
                )
        able = [t for t in found if operation in t.report.operations]
        if not able:
            raise UnsupportedError(
                f"the model {route.model!r} does not offer {operation.path}",
                metadata={"model": route.model, "operation": operation.name.lower()},
            )
        return able

    def _within_reach(self, found: Sequence[Target]) -> Sequence[Target]:
        """Return the targets that lead the call to no gateway twice, and not too far.

        Raises:
            BackendUnavailableError: None does; no fault of the caller, who may ask elsewhere.
        """
        within = [t for t in found if self._incoming.may_go(t.report.via)]
        if not within:
            raise BackendUnavailableError(
                "every way from here leads back, or too far",
                work_started=False,
                metadata={"reason": "loop", "hops": " ".join(self._incoming.hops)},
            )
        return within

    async def _at_model(
        self, route: Route, attempt: Callable[[Endpoint, Attempt], Awaitable[T]]
    ) -> T:
        """Try endpoints of one model until one answers or none is left."""
        self._model = route.model
        tried = Tried()
        while True:
            entry = await self._next(route, tried)
            try:
                return await self._attempt(entry, attempt)
            except (CapacityError, BackendError) as exc:
                if not self._may_try_again(exc):
                    raise
                tried.note(entry.endpoint, exc)

    def _may_try_again(self, failure: FirstError) -> bool:
        if self._ledger.has_begun or is_out_of_time(failure):
            return False
        return self._has_attempts(but=self._reserved_count) and self._budget.spend()

    async def _next(self, route: Route, tried: Tried) -> Entry:
        """Return a place for the next attempt: another endpoint at once, else after a wait.

        Raises:
            FirstError: There is none; the failure of the last attempt, if there was one.
        """
        targets = self.targets(route)
        failure = tried.last
        if failure is None:
            return await self._enter(route, targets, tried)
        others = [t for t in targets if t.endpoint not in tried]
        request = self._request(route)
        entry = self._admission.try_enter(route.policy, request, others, panics=False)
        if entry is not None:
            return entry
        same = await self._pause(tried)
        again = [t for t in targets if t.endpoint is same or t in others]
        if not again:
            raise failure
        try:
            return await self._enter(route, again, tried, same)
        except CapacityError:
            raise failure from None

    async def _pause(self, tried: Tried) -> Endpoint | None:
        """Wait until an endpoint that failed may be asked again; `None`: none may."""
        if self._incoming.is_relayed:
            return None
        soonest = tried.soonest(self._settings.same_endpoint_wait_s)
        if soonest is None or soonest[1] > self._settings.longest_retry_after_s:
            return None
        endpoint, left_s = soonest
        end_s = self._clock.monotonic() + left_s
        # A loop's timer may fire a little early, and the endpoint would still be resting.
        while left_s > 0:
            await self._clock.sleep(left_s)
            left_s = end_s - self._clock.monotonic()
        return endpoint

    async def _enter(
        self, route: Route, targets: Sequence[Target], tried: Tried, same: Endpoint | None = None
    ) -> Entry:
        """Enter one of `targets`, and while that takes time, of those that come meanwhile."""
        request = self._request(route)
        # The common case waits for nothing and needs no coroutine.
        entry = self._admission.try_enter(route.policy, request, targets)
        if entry is not None:
            return entry

        def find() -> list[Target]:
            found = self._targets_now(route)
            return [t for t in found if t.endpoint is same or t.endpoint not in tried]

        enter = self._admission.enter
        return await enter(route.policy, request, targets, self._terms, find=find, tell=self._tell)

    def _targets_now(self, route: Route) -> list[Target]:
        now = self._routes.resolve(route.model)
        try:
            return [] if now is None else self.targets(now)
        except FirstError:
            return []  # those that fit the call are away just now

    async def _attempt(
        self, entry: Entry, attempt: Callable[[Endpoint, Attempt], Awaitable[T]]
    ) -> T:
        """Run one attempt on an endpoint whose gate was entered, and leave the gate."""
        endpoint = entry.endpoint
        endpoint.attempt_count += 1
        try:
            with self._ledger.attempt(endpoint.id, endpoint.breaker.answers) as account:
                result = await attempt(endpoint, account)
        except BaseException as exc:
            now_s, is_hasty = self._clock.monotonic(), self._is_hasty(endpoint)
            blame(endpoint, exc, now_s, is_probe=entry.is_probe, is_hasty=is_hasty)
            raise
        else:
            endpoint.breaker.succeeded()
            if account.first_chunk_s is not None:
                endpoint.learned.add(account.first_chunk_s)
                endpoint.gate.bound.answered(account.first_chunk_s, endpoint.gate.in_flight_count)
            return result
        finally:
            endpoint.attempt_count -= 1
            endpoint.gate.leave()

    def _is_hasty(self, endpoint: Endpoint) -> bool:
        asked, allowed = self._incoming.first_chunk_timeout_s, endpoint.timeouts.first_chunk_s
        return asked is not None and (allowed is None or asked < allowed)


def _window(route: Route) -> int:
    return max((t.report.context_window_token_count for t in route.targets), default=0)
