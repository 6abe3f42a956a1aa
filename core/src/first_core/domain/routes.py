"""From the name that a client asks for to the endpoints that may answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from first_core.errors import SettingsError
from first_core.types import EndpointState, Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from first_core.domain.catalog import Catalog, Endpoint
    from first_core.plugin import EndpointReport
    from first_core.plugin.policy import RoutingPolicy
    from first_core.settings import ModelSettings, RoutingSettings, TargetSettings

_BEST_FIRST = (
    EndpointState.READY,
    EndpointState.STARTING,
    EndpointState.QUEUED,
    EndpointState.COLD,
    EndpointState.DRAINING,
    EndpointState.DOWN,
)


class Target:
    """One endpoint of a model, with its place and weight there. The policies' `Candidate`."""

    __slots__ = ("endpoint", "order", "weight")

    def __init__(self, endpoint: Endpoint, order: int, weight: float) -> None:
        self.endpoint = endpoint
        self.order = order
        self.weight = weight

    @property
    def report(self) -> EndpointReport:
        """What its backend said last."""
        return self.endpoint.report

    @property
    def outstanding_count(self) -> int:
        """Calls of this gateway that it runs now."""
        return self.endpoint.gate.in_flight_count

    @property
    def queued_count(self) -> int:
        """Calls of this gateway that wait for it."""
        return self.endpoint.gate.queue.waiting_count

    @property
    def first_chunk_s(self) -> float | None:
        """Learned mean time to its first chunk, in seconds."""
        return self.endpoint.learned.first_chunk_s


@dataclass(frozen=True, slots=True)
class Route:
    """One model as clients ask for it."""

    model: str
    policy_name: str
    policy: RoutingPolicy
    targets: tuple[Target, ...]
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """One model, summed up over its endpoints."""

    id: str
    create_time: float
    owner: str
    context_window_token_count: int
    operations: frozenset[Operation]
    state: EndpointState


class Routes:
    """Resolves names: configured models and their aliases first, then what endpoints bring.

    Args:
        settings: The section `routing`.
        policies: Makes a policy, by name.
        catalog: The endpoints.

    Raises:
        SettingsError: A policy does not exist, or a name is taken twice.
    """

    def __init__(
        self,
        settings: RoutingSettings,
        policies: Mapping[str, Callable[[], RoutingPolicy]],
        catalog: Catalog,
    ) -> None:
        self._catalog = catalog
        self._policies = dict(policies)
        self._default_policy = settings.policy
        self._models = _by_name(settings.models)
        for model in settings.models:
            self._check_policy(model.policy or settings.policy)
        self._check_policy(settings.policy)
        self._made: dict[str, RoutingPolicy] = {}
        self._cache: dict[str, Route] = {}
        self._cache_version = -1

    def _check_policy(self, name: str) -> None:
        if name not in self._policies:
            known = ", ".join(sorted(self._policies))
            raise SettingsError(f"routing: there is no policy {name!r}; there are: {known}")

    def resolve(self, name: str) -> Route | None:
        """Return the route of a model; `None`: nobody knows the name.

        Takes a look into a cache that is emptied whenever an endpoint comes or goes, and which
        holds known names only, so that callers cannot fill it.
        """
        if self._cache_version != self._catalog.version:
            self._renew()
        route = self._cache.get(name)
        if route is None:
            route = self._make(name)
            if route is not None:
                self._cache[name] = route
        return route

    def _renew(self) -> None:
        self._cache.clear()
        self._cache_version = self._catalog.version
        names = set(self._models) | set(self._catalog.model_names())
        self._made = {name: policy for name, policy in self._made.items() if name in names}

    def _make(self, name: str) -> Route | None:
        settings = self._models.get(name)
        fallbacks: tuple[str, ...] = ()
        if settings is None:
            endpoints = self._catalog.endpoints_of(name)
            if not endpoints:
                return None
            found: Iterable[tuple[Endpoint, float]] = ((e, 1.0) for e in endpoints)
            policy_name = self._default_policy
        else:
            name = settings.name
            found = _targets(settings, self._catalog)
            policy_name = settings.policy or self._default_policy
            fallbacks = tuple(settings.fallbacks)
        targets = tuple(Target(e, order, weight) for order, (e, weight) in enumerate(found))
        return Route(name, policy_name, self._policy(name, policy_name), targets, fallbacks)

    def _policy(self, model: str, policy_name: str) -> RoutingPolicy:
        policy = self._made.get(model)
        if policy is None:
            policy = self._made[model] = self._policies[policy_name]()
        return policy

    def models(self, *, cluster: str = "", framework: str = "") -> list[Model]:
        """Return the models with an endpoint on that cluster and framework, sorted by id."""
        found = []
        for name in sorted(set(self._models) | set(self._catalog.model_names())):
            route = self.resolve(name)
            endpoints = [
                t.endpoint
                for t in (route.targets if route else ())
                if cluster in ("", t.report.id.cluster) and framework in ("", t.report.id.framework)
            ]
            if endpoints:
                found.append(_sum_up(name, endpoints))
        return found

    def model(self, name: str) -> Model | None:
        """Return one model, if it is known and has an endpoint."""
        route = self.resolve(name)
        if route is None or not route.targets:
            return None
        return _sum_up(name, [target.endpoint for target in route.targets])


def _by_name(models: Sequence[ModelSettings]) -> dict[str, ModelSettings]:
    found: dict[str, ModelSettings] = {}
    for model in models:
        for name in (model.name, *model.aliases):
            if name in found:
                raise SettingsError(f"routing.models: the name {name!r} is taken twice")
            found[name] = model
    return found


def _targets(settings: ModelSettings, catalog: Catalog) -> list[tuple[Endpoint, float]]:
    if not settings.targets:
        return [(endpoint, 1.0) for endpoint in catalog.endpoints_of(settings.name)]
    found: dict[Endpoint, float] = {}
    for target in settings.targets:
        for endpoint in catalog.endpoints_of(target.model or settings.name):
            if _matches(target, endpoint):
                found.setdefault(endpoint, target.weight)
    return list(found.items())


def _matches(target: TargetSettings, endpoint: Endpoint) -> bool:
    wanted = (target.cluster, target.framework, target.replica)
    has = (endpoint.id.cluster, endpoint.id.framework, endpoint.id.replica)
    return all(want is None or want == value for want, value in zip(wanted, has, strict=True))


def _sum_up(model: str, endpoints: Sequence[Endpoint]) -> Model:
    reports = [endpoint.report for endpoint in endpoints]
    return Model(
        id=model,
        create_time=min(endpoint.create_time for endpoint in endpoints),
        owner=next((report.owner for report in reports if report.owner), ""),
        context_window_token_count=max(r.context_window_token_count for r in reports),
        operations=frozenset().union(*(report.operations for report in reports)),
        state=min((report.state for report in reports), key=_BEST_FIRST.index),
    )
