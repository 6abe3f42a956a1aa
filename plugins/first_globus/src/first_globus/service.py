"""The control client: Globus Compute's web service through the SDK's own clients.

The SDK blocks, so calls run in a bounded pool of threads, each with clients of its own, since the
SDK's are not safe across threads. Retries are off: a submit whose answer was lost may have started
the task, and a retry would run it twice. The service has no key that would tell a repeat.
"""

from __future__ import annotations

import asyncio
import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import globus_sdk
from globus_sdk.transport import RequestsTransport, RetryConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from first_globus.settings import GlobusSettings

COMPUTE_SCOPE: Final = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
"""Scope of the Globus Compute API. Source: `globus_sdk.scopes.ComputeScopes.all`."""

JSON_RESULTS: Final = ["globus_compute_sdk.serialize.JSONData"]
"""Results are asked for as JSON text: other forms would run code where they are read."""


class ServiceError(Exception):
    """The web service did not do what it was asked; the message is for a person.

    Args:
        message: In a few words.
        status: HTTP status; 0: there was no answer.
        code: The service's own code.
        retry_after: Header of that name.
        work_started: Whether the request may have had an effect.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        retry_after: str = "",
        work_started: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.work_started = work_started


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where results of tasks arrive."""

    url: str
    """Holds a credential: never log it."""
    queue_prefix: str


class _Clients:
    """What one thread uses."""

    def __init__(self, settings: GlobusSettings) -> None:
        secret = settings.client_secret
        no_retries = RetryConfig(max_retries=0)
        auth = globus_sdk.ConfidentialAppAuthClient(
            settings.client_id,
            secret.reveal() if secret else "",
            base_url=f"{settings.auth_url.rstrip('/')}/",
            transport=RequestsTransport(http_timeout=settings.request_timeout_s),
            retry_config=no_retries,
        )
        self.authorizer = globus_sdk.ClientCredentialsAuthorizer(auth, COMPUTE_SCOPE)
        base_url = f"{settings.service_url.rstrip('/')}/"
        self.v2 = globus_sdk.ComputeClientV2(
            base_url=base_url,
            authorizer=self.authorizer,
            transport=RequestsTransport(http_timeout=settings.request_timeout_s),
            retry_config=no_retries,
        )
        self.v3 = globus_sdk.ComputeClientV3(
            base_url=base_url,
            authorizer=self.authorizer,
            transport=RequestsTransport(http_timeout=settings.request_timeout_s),
            retry_config=no_retries,
        )


class ComputeService:
    """Talks to the web service.

    Args:
        settings: The section `globus`.
    """

    def __init__(self, settings: GlobusSettings) -> None:
        self._settings = settings
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(settings.max_threads, thread_name_prefix="globus")

    def stop(self) -> None:
        """Take no further requests; those under way end in their threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def submit(
        self, endpoint: str, tasks: dict[str, list[str]], *, group: str
    ) -> dict[str, list[str]]:
        """Submit tasks and return their ids, by function, in the order given.

        Args:
            endpoint: Id of the endpoint.
            tasks: Packed arguments of each task, by the id of its function.
            group: The task group, whose queue gets the results.

        Raises:
            ServiceError: The service did not take them, or nobody knows whether it did.
        """
        document = {
            "create_queue": True,
            "tasks": tasks,
            "task_group_id": group,
            "result_serializers": JSON_RESULTS,
        }
        answer = await self._run(lambda clients: clients.v3.submit(endpoint, document))
        ids = answer.get("tasks") if isinstance(answer, dict) else None
        if not isinstance(ids, dict) or any(
            len(ids.get(function, ())) != len(payloads) for function, payloads in tasks.items()
        ):
            raise ServiceError("the service's answer to a submit is not readable")
        return ids

    async def register(self, name: str, source: str) -> str:
        """Register a function and return its id.

        Args:
            name: Of the function in the source.
            source: Text of a file, which is run as a whole where the function is called; so the
                Python here and there need not be the same.

        Raises:
            ServiceError: The service did not take it.
        """
        document = {
            "function_name": name,
            "function_code": source,
            "serialized": False,
            "meta": {
                "python_version": platform.python_version(),
                "sdk_version": globus_sdk.__version__,
            },
        }
        answer = await self._run(lambda clients: clients.v3.register_function(document))
        try:
            return str(answer["function_uuid"])
        except (KeyError, TypeError) as exc:
            raise ServiceError("the service's answer to a registration is not readable") from exc

    async def status(self, endpoint: str) -> str:
        """Return what the service calls an endpoint's status: `online`, `offline` or else.

        Raises:
            ServiceError: The service does not tell.
        """
        answer = await self._run(lambda clients: clients.v2.get_endpoint_status(endpoint))
        return str(answer.get("status", "")) if isinstance(answer, dict) else ""

    async def broker(self) -> BrokerAddress:
        """Return where results arrive.

        Raises:
            ServiceError: The service does not tell.
        """
        answer = await self._run(lambda clients: clients.v2.get_result_amqp_url())
        try:
            return BrokerAddress(answer["connection_url"], answer["queue_prefix"])
        except (KeyError, TypeError) as exc:
            raise ServiceError("the service's address of the broker is not readable") from exc

    async def finished(self, task_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what the service knows of tasks, by id.

        Raises:
            ServiceError: The service does not tell.
        """
        answer = await self._run(lambda clients: clients.v2.get_task_batch(list(task_ids)))
        results = answer.get("results") if isinstance(answer, dict) else None
        return results if isinstance(results, dict) else {}

    async def _run(self, ask: Callable[[_Clients], Any]) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._ask, ask)
        except RuntimeError as exc:  # the pool is shut down
            raise ServiceError("the gateway is shutting down", work_started=False) from exc

    def _ask(self, ask: Callable[[_Clients], Any]) -> Any:
        clients = self._clients()
        try:
            return ask(clients).data
        except globus_sdk.GlobusAPIError as exc:
            if exc.http_status != 401:  # noqa: PLR2004 - the access token is no longer taken
                raise _refused(exc) from exc
        except globus_sdk.NetworkError as exc:
            raise ServiceError("the service cannot be reached") from exc
        return self._ask_again(clients, ask)

    def _ask_again(self, clients: _Clients, ask: Callable[[_Clients], Any]) -> Any:
        try:
            clients.authorizer.handle_missing_authorization()
            return ask(clients).data
        except globus_sdk.GlobusAPIError as exc:
            raise _refused(exc) from exc
        except globus_sdk.NetworkError as exc:
            raise ServiceError("the service cannot be reached") from exc

    def _clients(self) -> _Clients:
        clients: _Clients | None = getattr(self._local, "clients", None)
        if clients is not None:
            return clients
        try:
            clients = self._local.clients = _Clients(self._settings)
        except globus_sdk.GlobusAPIError as exc:
            raise ServiceError(
                "Globus Auth refused the gateway's credential",
                status=exc.http_status if exc.http_status >= 500 else 401,  # noqa: PLR2004
                work_started=False,
            ) from exc
        except globus_sdk.NetworkError as exc:
            raise ServiceError("Globus Auth cannot be reached", work_started=False) from exc
        return clients


def _refused(exc: globus_sdk.GlobusAPIError) -> ServiceError:
    status = exc.http_status
    return ServiceError(
        f"the service answered HTTP {status}",
        status=status,
        code=str(exc.code or ""),
        retry_after=exc.headers.get("Retry-After", ""),
        work_started=status >= 500,  # noqa: PLR2004 - it may have failed amid the work
    )
