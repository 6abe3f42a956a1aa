"""A stand-in for the cloud's web service: real HTTP, real RabbitMQ, no cloud.

Answers the routes that the real SDK and the real agent use, sends start commands and tasks to real
agents over the broker, and forwards their results. Runs in a thread with a loop of its own, since
agents outlive the loop of one test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aio_pika
import aiohttp
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PORT: Final = 5000
"""Agents have no setting for another one."""

BROKER_URL: Final = "amqp://guest:guest@127.0.0.1:5672/%2F"

COMPUTE_SCOPE: Final = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"

HEARTBEAT_LIMIT_S: Final = 15.0
"""Silence after which an endpoint is offline; agents beat each 5 s."""

_IDENTITY: Final = "8c7b1c07-6d0a-4d55-a4a5-5d6a5b6a0001"


@dataclass
class Agent:
    """One registered endpoint."""

    id: str
    name: str
    seen_s: float = 0.0
    allowed: list[str] | None = None


@dataclass
class Worker:
    """One user endpoint process behind an agent."""

    id: str
    pid: int = 0
    seen_s: float = 0.0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    commanded_s: float = 0.0


@dataclass
class Fault:
    """What the next requests to a route get instead of, or after, being processed."""

    status: int = 503
    count: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    code: str = "TEST_FAULT"
    process_first: bool = False
    """Process the request, then cut the connection."""
    delay_s: float = 0.0


class Cloud:
    """The service, with hooks for tests. Its attributes may be set from any thread."""

    def __init__(self) -> None:
        self.prefix = f"first-test-{uuid.uuid4().hex[:8]}"
        self.client_id = str(uuid.uuid4())
        self.client_secret = "stand-in-secret-4711"  # noqa: S105 - serves this stand-in only
        self.tokens: set[str] = set()
        self.counts: dict[str, int] = {}
        self.faults: dict[str, Fault] = {}
        self.functions: dict[str, dict[str, Any]] = {}
        self.agents: dict[str, Agent] = {}
        self.workers: dict[str, Worker] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, str] = {}
        self.submits: list[dict[str, Any]] = []
        self.hold_results = False
        self.held: list[bytes] = []
        self.offline: set[str] = set()
        self.check_allowed = True
        self.gateway_broker_url = BROKER_URL
        """The broker's address as gateways are told; a test may put something in between."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self._connection: Any = None
        self._channel: Any = None
        self._queues: list[Any] = []
        self._exchanges: dict[str, Any] = {}
        self._subs = 0

    # From the tests' threads

    def start(self) -> None:
        self._thread.start()
        self.run(self._start())

    def stop(self) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def reset(self) -> None:
        """Forget what a test has set."""
        self.faults.clear()
        self.offline.clear()
        self.submits.clear()
        self.hold_results = False
        self.check_allowed = True
        self.gateway_broker_url = BROKER_URL

    async def wait(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait until something outside of the test's loop has happened."""
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - another process changes it
                await asyncio.sleep(0.02)

    def kill_workers(self) -> None:
        """Kill all user endpoint processes, as a node that goes down would."""
        self.run(self._kill_workers())

    async def _kill_workers(self) -> None:
        for worker in self.workers.values():
            if worker.pid:
                os.kill(worker.pid, signal.SIGKILL)
            worker.pid, worker.commanded_s = 0, 0.0
            worker.ready.clear()

    def release_results(self) -> None:
        self.hold_results = False
        self.run(self._release())

    def add_function(self, name: str, source: str) -> str:
        """Register a function from source text, as `POST /v3/functions` does."""
        function = str(uuid.uuid4())
        self.functions[function] = {
            "function_name": name,
            "function_code": source,
            "serialized": False,
        }
        return function

    def publish_result(self, group: str, body: bytes) -> None:
        """Put any bytes on a task group's queue, as a hostile or broken endpoint could."""
        self.run(self._to_group(group, body))

    @property
    def url(self) -> str:
        return f"http://localhost:{PORT}"

    # Life

    async def _start(self) -> None:
        self._connection = await aio_pika.connect(BROKER_URL, timeout=5)
        self._channel = await self._connection.channel()
        for name, kind in (
            ("commands", "direct"),
            ("tasks", "direct"),
            ("results", "topic"),
            ("heartbeats", "topic"),
        ):
            self._exchanges[name] = await self._channel.declare_exchange(
                self._name(name), kind, durable=True
            )
        for name, take in (("results", self._on_result), ("heartbeats", self._on_heartbeat)):
            queue = await self._declare(self._name(name))
            await queue.bind(self._exchanges[name], f"*.{name}")
            await queue.consume(take)
        await self._listen()

    async def _listen(self) -> None:
        app = web.Application(middlewares=[self._around], client_max_size=64 * 1024 * 1024)
        app.add_routes(
            [
                web.post("/v2/oauth2/token", self._token),
                web.get("/v2/oauth2/userinfo", self._userinfo),
                web.get("/v2/version", self._version),
                web.post("/v3/functions", self._register_function),
                web.get("/v2/functions/{id}", self._get_function),
                web.post("/v3/endpoints", self._register_agent),
                web.put("/v3/endpoints/{id}", self._register_agent),
                web.get("/v2/endpoints/{id}", self._get_agent),
                web.get("/v2/endpoints/{id}/status", self._status),
                web.get("/v3/endpoints/{id}/allowed_functions", self._allowed),
                web.post("/v3/endpoints/{id}/submit", self._submit),
                web.get("/v2/tasks/{id}", self._task),
                web.post("/v2/batch_status", self._batch_status),
                web.get("/v2/get_amqp_result_connection_url", self._amqp_url),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "localhost", PORT).start()

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        for queue in self._queues:
            with contextlib.suppress(Exception):
                await self._channel.queue_delete(queue)
        for exchange in self._exchanges.values():
            with contextlib.suppress(Exception):
                await exchange.delete()
        await self._connection.close()

    def _name(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    async def _declare(self, name: str) -> Any:
        queue = await self._channel.declare_queue(name, durable=True)
        if name not in self._queues:
            self._queues.append(name)
        return queue

    # HTTP

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        route = self._route_of(request)
        self.counts[route] = self.counts.get(route, 0) + 1
        open_routes = {"token", "version"}
        if route not in open_routes and not self._admits(request):
            return _error(401, "UNAUTHORIZED", "token is not valid")
        fault = self.faults.get(route)
        if fault is None:
            return await handler(request)
        fault.count -= 1
        if fault.count <= 0:
            self.faults.pop(route, None)
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.process_first:
            await handler(request)
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        return _error(fault.status, fault.code, "fault of a test", headers=fault.headers)

    def _route_of(self, request: web.Request) -> str:
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else request.path
        return path.rsplit("/", 1)[-1] if not path.endswith("}") else path.split("/")[2]

    def _admits(self, request: web.Request) -> bool:
        return request.headers.get("authorization", "").removeprefix("Bearer ") in self.tokens

    async def _token(self, request: web.Request) -> web.Response:
        auth = request.headers.get("authorization", "")
        try:
            given = aiohttp.BasicAuth.decode(auth)
        except ValueError:
            return web.json_response({"error": "invalid_client"}, status=401)
        if (given.login, given.password) != (self.client_id, self.client_secret):
            return web.json_response({"error": "invalid_client"}, status=401)
        form = await request.post()
        scopes = sorted(set(str(form.get("scope", "")).split()))
        groups: dict[str, list[str]] = {}
        for scope in scopes:
            server = "funcx_service" if scope == COMPUTE_SCOPE else "auth.globus.org"
            groups.setdefault(server, []).append(scope)
        answers = [self._grant(server, granted) for server, granted in groups.items()]
        first, *others = answers or [self._grant("auth.globus.org", [])]
        return web.json_response({**first, "other_tokens": others})

    def _grant(self, server: str, scopes: list[str]) -> dict[str, Any]:
        token = uuid.uuid4().hex
        self.tokens.add(token)
        return {
            "access_token": token,
            "scope": " ".join(scopes),
            "expires_in": 172800,
            "token_type": "Bearer",
            "resource_server": server,
        }

    async def _userinfo(self, _request: web.Request) -> web.Response:
        return web.json_response({"sub": _IDENTITY, "identity_set": [{"sub": _IDENTITY}]})

    async def _version(self, request: web.Request) -> web.Response:
        if "service" not in request.query:
            return web.json_response("1.0.0")
        return web.json_response(
            {"api": "1.0.0", "min_sdk_version": "2.0.0", "min_ep_version": "2.0.0", "git_sha": "0"}
        )

    async def _register_function(self, request: web.Request) -> web.Response:
        document = await request.json()
        function = str(uuid.uuid4())
        self.functions[function] = document
        return web.json_response({"function_uuid": function})

    async def _get_function(self, request: web.Request) -> web.Response:
        function = self.functions.get(request.match_info["id"])
        if function is None:
            return _error(404, "FUNCTION_NOT_FOUND", "no such function")
        return web.json_response({"function_uuid": request.match_info["id"], **function})

    async def _register_agent(self, request: web.Request) -> web.Response:
        document = await request.json()
        agent_id = request.match_info.get("id") or str(uuid.uuid4())
        agent = self.agents.setdefault(agent_id, Agent(agent_id, document["endpoint_name"]))
        agent.allowed = document.get("allowed_functions")
        queue = await self._declare(f"{agent_id}.commands")
        await queue.bind(self._exchanges["commands"], f"{agent_id}.commands")
        return web.json_response(
            {
                "endpoint_id": agent_id,
                "command_queue_info": {
                    "connection_url": BROKER_URL,
                    "exchange": self._name("commands"),
                    "queue": f"{agent_id}.commands",
                },
                "result_queue_info": self._write_to(agent_id, "results"),
                "heartbeat_queue_info": self._write_to(agent_id, "heartbeats"),
                "warnings": [],
            }
        )

    def _write_to(self, owner: str, name: str) -> dict[str, Any]:
        return {
            "connection_url": BROKER_URL,
            "exchange": self._name(name),
            "queue": self._name(name),
            "queue_publish_kwargs": {
                "exchange": self._name(name),
                "routing_key": f"{owner}.{name}",
                "mandatory": True,
                "properties": {"delivery_mode": 2},
            },
        }

    async def _get_agent(self, request: web.Request) -> web.Response:
        agent = self.agents.get(request.match_info["id"])
        if agent is None:
            return _error(404, "ENDPOINT_NOT_FOUND", "no such endpoint")
        return web.json_response({"uuid": agent.id, "name": agent.name})

    def is_online(self, agent_id: str) -> bool:
        agent = self.agents.get(agent_id)
        return (
            agent is not None
            and agent_id not in self.offline
            and time.monotonic() - agent.seen_s < HEARTBEAT_LIMIT_S
        )

    async def _status(self, request: web.Request) -> web.Response:
        agent_id = request.match_info["id"]
        if agent_id not in self.agents:
            return _error(404, "ENDPOINT_NOT_FOUND", "no such endpoint")
        return web.json_response(
            {"status": "online" if self.is_online(agent_id) else "offline", "details": {}}
        )

    async def _allowed(self, request: web.Request) -> web.Response:
        agent = self.agents[request.match_info["id"]]
        return web.json_response(
            {
                "endpoint_id": agent.id,
                "restricted": agent.allowed is not None,
                "functions": agent.allowed or [],
            }
        )

    async def _submit(self, request: web.Request) -> web.Response:
        agent_id = request.match_info["id"]
        document = await request.json()
        agent = self.agents.get(agent_id)
        if agent is None:
            return _error(404, "ENDPOINT_NOT_FOUND", "no such endpoint")
        for function in document["tasks"]:
            if function not in self.functions:
                return _error(404, "FUNCTION_NOT_FOUND", f"Function {function} not found")
            if self.check_allowed and agent.allowed is not None and function not in agent.allowed:
                return _error(403, "FUNCTION_NOT_PERMITTED", "not in the allow-list")
        if request.content_length and request.content_length > 10 * 1024 * 1024:
            return _error(413, "TASK_PAYLOAD_TOO_LARGE", "payload is too large")
        if not self.is_online(agent_id):
            return _error(409, "ENDPOINT_NOT_ONLINE", "endpoint is offline")
        self.submits.append({"endpoint": agent_id, **document})
        group = document.get("task_group_id") or str(uuid.uuid4())
        if document["create_queue"] and group not in self.groups:
            self.groups[group] = f"{self.prefix}-group-{group}"
            await self._declare(self.groups[group])
        worker = await self._worker_of(agent_id, document.get("user_endpoint_config") or {})
        ids: dict[str, list[str]] = {}
        for function, payloads in document["tasks"].items():
            ids[function] = [
                await self._send_task(worker, function, payload, group, document)
                for payload in payloads
            ]
        return web.json_response(
            {
                "request_id": str(uuid.uuid4()),
                "task_group_id": group,
                "endpoint_id": agent_id,
                "tasks": ids,
            }
        )

    async def _send_task(
        self, worker: Worker, function: str, payload: str, group: str, document: dict[str, Any]
    ) -> str:
        task_id = str(uuid.uuid4())
        self.tasks[task_id] = {"task_id": task_id, "status": "waiting-for-ep", "group": group}
        buffer = _packed_function(self.functions[function]) + payload
        headers: dict[str, Any] = {"function_uuid": function, "task_uuid": task_id}
        if document.get("result_serializers"):
            headers["result_serializers"] = document["result_serializers"]
        body = {"message_type": "task", "data": {"task_id": task_id, "task_buffer": buffer}}
        await self._exchanges["tasks"].publish(
            aio_pika.Message(
                b"\x01" + json.dumps(body).encode(),
                headers=headers,
                content_type="application/json",
            ),
            f"{worker.id}.tasks",
        )
        return task_id

    async def _worker_of(self, agent_id: str, config: dict[str, Any]) -> Worker:
        name = json.dumps([agent_id, config], sort_keys=True)
        worker_id = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
        worker = self.workers.setdefault(worker_id, Worker(worker_id))
        for _ in range(10):
            now_s = time.monotonic()
            if now_s - worker.commanded_s > 5.0:
                worker.commanded_s = now_s
                await self._command(agent_id, worker, config)
            with contextlib.suppress(TimeoutError):
                # After a hard kill agents refuse to start anew for three heartbeats.
                await asyncio.wait_for(worker.ready.wait(), 5.1)
                break
        return worker

    async def _command(self, agent_id: str, worker: Worker, config: dict[str, Any]) -> None:
        queue = await self._declare(f"{worker.id}.tasks")
        await queue.bind(self._exchanges["tasks"], f"{worker.id}.tasks")
        command = {
            "command": "cmd_start_endpoint",
            "args": [],
            "kwargs": {
                "name": f"uep.{agent_id}.{worker.id}",
                "user_opts": config,
                "user_runtime": {},
                "amqp_creds": {
                    "endpoint_id": worker.id,
                    "task_queue_info": {
                        "connection_url": BROKER_URL,
                        "exchange": self._name("tasks"),
                        "queue": f"{worker.id}.tasks",
                    },
                    "result_queue_info": self._write_to(worker.id, "results"),
                    "heartbeat_queue_info": self._write_to(worker.id, "heartbeats"),
                },
            },
            "globus_effective_identity": _IDENTITY,
            "globus_username": "tester@example.org",
            "globus_identity_set": [
                {
                    "sub": _IDENTITY,
                    "id": _IDENTITY,
                    "username": "tester@example.org",
                    "name": "Tester",
                    "email": "tester@example.org",
                }
            ],
        }
        await self._exchanges["commands"].publish(
            aio_pika.Message(
                json.dumps(command).encode(),
                content_type="application/json",
                timestamp=int(time.time()),
            ),
            f"{agent_id}.commands",
        )

    def _document(self, task_id: str) -> dict[str, Any]:
        task = self.tasks[task_id]
        return {key: value for key, value in task.items() if key != "group"}

    async def _task(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self.tasks:
            return _error(404, "TASK_NOT_FOUND", "no such task")
        return web.json_response(self._document(request.match_info["id"]))

    async def _batch_status(self, request: web.Request) -> web.Response:
        wanted = (await request.json())["task_ids"]
        found = {task: self._document(task) for task in wanted if task in self.tasks}
        return web.json_response({"response": "batch", "results": found})

    async def _amqp_url(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"queue_prefix": f"{self.prefix}-group-", "connection_url": self.gateway_broker_url}
        )

    # Broker

    async def _on_heartbeat(self, message: Any) -> None:
        async with message.process():
            data = json.loads(message.body[1:])["data"]
            owner, state = data["endpoint_id"], data["global_state"]
            now_s = time.monotonic()
            if owner in self.agents:
                self.agents[owner].seen_s = now_s if state.get("heartbeat_period") else 0.0
            worker = self.workers.get(owner)
            if worker is not None and state.get("posix_pid") and "error" not in state:
                worker.pid, worker.seen_s = state.get("posix_pid", 0), now_s
                worker.ready.set()

    async def _on_result(self, message: Any) -> None:
        async with message.process():
            data = json.loads(message.body[1:])["data"]
            task = self.tasks.get(data["task_id"])
            if task is None:
                return
            if data.get("error_details"):
                task.update(status="failed", exception=data["data"])
            else:
                task.update(status="success", result=data["data"])
            task["completion_t"] = str(time.time())
            if self.hold_results:
                self.held.append(message.body)
            else:
                await self._to_group(task["group"], message.body)

    async def _release(self) -> None:
        held, self.held = self.held, []
        for body in held:
            task = self.tasks[json.loads(body[1:])["data"]["task_id"]]
            await self._to_group(task["group"], body)

    async def _to_group(self, group: str, body: bytes) -> None:
        queue = self.groups.get(group)
        if queue is not None:
            await self._channel.default_exchange.publish(
                aio_pika.Message(body, timestamp=int(time.time()), delivery_mode=2), queue
            )


def _packed_function(document: dict[str, Any]) -> str:
    code = document["function_code"]
    if document["serialized"]:
        return str(code)
    buffer = f"st\n{document['function_name']}:{code}"
    return f"{len(buffer)}\n{buffer}"


def _error(
    status: int, code: str, reason: str, *, headers: dict[str, str] | None = None
) -> web.Response:
    document = {
        "status": "Failed",
        "code": code,
        "error_args": [],
        "http_status_code": status,
        "detail": reason,
        "reason": reason,
    }
    return web.json_response(document, status=status, headers=headers)
