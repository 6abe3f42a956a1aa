"""The order of rescue: the same model elsewhere, the same endpoint again, a fallback model."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from first_core.domain.faults import blame, is_prompt_too_long, is_silence, pause_s
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
    from first_core.domain.admission import Admission, Progress, WaitTerms
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

    async def run(self, model: str, attempt: Callable[[Endpoint, Attempt], Awaitable[T]]) -> T:
        """Run `attempt` on endpoints of `model`, then on its fallbacks.

        Raises:
            FirstError: The failure at the model that was asked for.
        """
        route = self._resolve(model)
        self._ledger.requested_model = route.model
        self._budget.earn()
        try:
            return await self._at_model(route, attempt)
        except FirstError as exc:
            failure = exc
        for name in route.fallbacks:
            if not self._may_fall_back(failure):
                break
            fallback = self._routes.resolve(name)
            if fallback is None or not self._fits_prompt(route, fallback, failure):
                continue
            try:
                return await self._at_model(fallback, attempt)
            except FirstError as exc:
                if self._ledger.has_begun:
                    raise
                self._ledger.fell_back(exc)
        raise failure

    def may_continue(self) -> bool:
        """Tell whether the budgets allow a broken stream to go on elsewhere."""
        return self._has_attempts() and self._budget.spend()

    async def run_elsewhere(
        self,
        where_not: Endpoint | None,
        attempt: Callable[[Endpoint, Attempt], Awaitable[T]],
        *,
        fits: Callable[[Endpoint], bool] = lambda _: True,
        waits: bool = False,
    ) -> T:
        """Run one attempt on another endpoint of the model that is being tried now.

        Args:
            where_not: The endpoint that is out of the question.
            attempt: Runs it.
            fits: Tells which endpoints are good for it.
            waits: Whether it waits for room as any call does.

        Raises:
            OverloadedError: There is no endpoint with room that fits.
            FirstError: What the attempt raised.
        """
        route = self._resolve(self._model)
        ready = [t for t in self.targets(route) if t.endpoint.is_ready and fits(t.endpoint)]
        others = [t for t in ready if t.endpoint is not where_not]
        request = self._request(route)
        target = self._admission.try_enter(route.policy, request, others)
        if target is None and others and waits:
            enter = self._admission.enter
            target = await enter(route.policy, request, lambda: others, self._terms, None)
        if target is None:
            raise OverloadedError("no other endpoint has room", retry_after_s=1.0)
        return await self._attempt(target, attempt)

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
        fits = fits and not self._incoming.is_relayed
        return fits and not self._ledger.has_begun and self._has_attempts()

    def _fits_prompt(self, route: Route, fallback: Route, failure: FirstError) -> bool:
        """A prompt that is too long goes only to a model with a larger window."""
        if not is_prompt_too_long(failure):
            return True
        return _window(fallback) > _window(route)

    def _has_attempts(self) -> bool:
        return self._ledger.attempt_count < self._settings.max_attempts

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
        """Try each endpoint once, then the same ones again."""
        self._model = route.model
        tried: dict[Endpoint, FirstError] = {}
        while True:
            left = [t for t in self.targets(route) if t.endpoint not in tried]
            if not left:
                return await self._again(route, tried, attempt)
            try:
                target = await self._enter(route, lambda: self._left(route, tried))
            except CapacityError:
                if not tried:
                    raise
                return await self._again(route, tried, attempt)
            try:
                return await self._attempt(target, attempt)
            except (CapacityError, BackendError) as exc:
                tried[target.endpoint] = exc
                if not self._may_try_again():
                    raise

    def _left(self, route: Route, tried: dict[Endpoint, FirstError]) -> list[Target]:
        """Return who is left as the catalog stands now; while a call waits endpoints may change."""
        now = self._routes.resolve(route.model) or route
        left = [t for t in self.targets(now) if t.endpoint not in tried]
        return left or self.targets(now)

    def _may_try_again(self) -> bool:
        return not self._ledger.has_begun and self._has_attempts() and self._budget.spend()

    async def _again(
        self,
        route: Route,
        tried: dict[Endpoint, FirstError],
        attempt: Callable[[Endpoint, Attempt], Awaitable[T]],
    ) -> T:
        """Ask endpoints that failed once more, after a wait, but never a silent one."""
        failure = list(tried.values())[-1]
        if self._incoming.is_relayed:
            raise failure
        for again_count in range(self._settings.max_attempts):
            mean_s = self._settings.same_endpoint_wait_s
            pauses = {
                endpoint: pause_s(error, again_count, mean_s)
                for endpoint, error in tried.items()
                if not is_silence(error) and not endpoint.is_gone
            }
            endpoint = min(pauses, key=pauses.__getitem__, default=None)
            if endpoint is None or pauses[endpoint] > self._settings.longest_retry_after_s:
                break
            await self._clock.sleep(pauses[endpoint])
            same = [t for t in self.targets(route) if t.endpoint is endpoint]
            try:
                target = await self._enter(route, lambda same=same: same)  # type: ignore[misc]
            except CapacityError:
                break
            try:
                return await self._attempt(target, attempt)
            except (CapacityError, BackendError) as exc:
                failure = tried[endpoint] = exc
                if not self._may_try_again():
                    break
        raise failure

    async def _enter(self, route: Route, find: Callable[[], Sequence[Target]]) -> Target:
        # The common case waits for nothing and needs no coroutine.
        request = self._request(route)
        target = self._admission.try_enter(route.policy, request, find())
        if target is not None:
            return target
        return await self._admission.enter(route.policy, request, find, self._terms, self._tell)

    async def _attempt(
        self, target: Target, attempt: Callable[[Endpoint, Attempt], Awaitable[T]]
    ) -> T:
        """Run one attempt on an endpoint whose gate was entered, and leave the gate."""
        endpoint = target.endpoint
        endpoint.breaker.begin()
        try:
            with self._ledger.attempt(endpoint.id) as account:
                result = await attempt(endpoint, account)
        except BaseException as exc:
            blame(endpoint, exc, self._clock.monotonic())
            raise
        else:
            endpoint.breaker.succeeded()
            if account.first_chunk_s is not None:
                endpoint.learned.add(account.first_chunk_s)
                endpoint.gate.bound.answered(account.first_chunk_s, endpoint.gate.in_flight_count)
            return result
        finally:
            endpoint.gate.leave()


def _window(route: Route) -> int:
    return max((t.report.context_window_token_count for t in route.targets), default=0)
