"""The systems compared: how each is started, and where it listens.

This is the file to change when the command line or the settings change.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Profile:
    """One simulated upstream: how long its answers are, and how fast their tokens come."""

    model: str
    token_count: int
    token_interval_ms: float = 0.0
    max_running: int = 256
    """Calls that the simulator works on at the same time; more would wait."""


PROFILES: Final = {
    "call": Profile("bench-call", token_count=10),
    "burst": Profile("bench-burst", token_count=200),
    "paced": Profile("bench-paced", token_count=300, token_interval_ms=10.0),
    "chunk": Profile("bench-chunk", token_count=5, token_interval_ms=10.0),
    "held": Profile("bench-held", token_count=25, token_interval_ms=1000.0, max_running=2000),
}
"""Each has a simulator of its own, since a simulator's pace is set when it starts."""

Ports = Mapping[str, int]
"""Profile to port on 127.0.0.1."""

Command = Sequence[str]


@dataclass(frozen=True, slots=True)
class System:
    """One way from the client to the upstream."""

    name: str
    commands: Sequence[Command]
    """Started in this order; all of them are the system, for CPU and memory."""
    ports: Ports


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def first_command(path: str | None) -> str:
    """The `first` to measure: the one named, else the one beside this Python."""
    # Absolute, since the processes run in a folder of their own.
    found = str(Path(path).absolute()) if path else _beside_python("first")
    if found is None:
        raise FileNotFoundError("no `first` beside this Python; run scripts/bench, or use --first")
    return found


def _beside_python(name: str) -> str | None:
    return shutil.which(name, path=str(Path(sys.executable).parent.absolute()))


def nginx_command() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def upstream(first: str) -> System:
    """The simulators; also the system `direct`, which has nothing in between."""
    ports = dict(zip(PROFILES, free_ports(len(PROFILES)), strict=True))
    commands = [
        [
            *(first, "sim", "--host", "127.0.0.1", "--port", str(ports[name])),
            *("--model", profile.model, "--tokens", str(profile.token_count)),
            *("--token-interval-ms", f"{profile.token_interval_ms:g}"),
            *("--max-running", str(profile.max_running)),
        ]
        for name, profile in PROFILES.items()
    ]
    return System("direct", commands, ports)


def nginx(binary: str, upstreams: Ports, folder: Path) -> System:
    """A plain proxy: one worker, keep-alive on both sides, nothing buffered, nothing logged."""
    ports = dict(zip(upstreams, free_ports(len(upstreams)), strict=True))
    servers = "\n".join(
        f"""
    upstream {name} {{
        server 127.0.0.1:{upstreams[name]};
        keepalive 256;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{ports[name]} backlog=4096;
        location / {{ proxy_pass http://{name}; }}
    }}"""
        for name in upstreams
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"""
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_http_version 1.1;
    proxy_set_header connection "";
    proxy_buffering off;
    proxy_read_timeout 120s;
{servers}
}}
"""
    )
    return System("nginx", [[binary, "-e", "stderr", "-c", str(config)]], ports)


def _vllm(upstreams: Ports) -> str:
    servers = "".join(
        f'\n    - {{url: "http://127.0.0.1:{port}", cluster: bench}}' for port in upstreams.values()
    )
    return f"vllm:\n  servers:{servers}\n"


TELEMETRY: Final = "telemetry: {sample_ratio: 0.01}\n"


def serve(first: str, upstreams: Ports, folder: Path) -> System:
    """Front and router in one process, the default."""
    http, grpc = free_ports(2)
    config = folder / "serve.yaml"
    config.write_text(
        f"http: {{listen: 127.0.0.1:{http}}}\ngrpc: {{listen: 127.0.0.1:{grpc}}}\n"
        + _vllm(upstreams)
        + TELEMETRY
    )
    return System(
        "serve", [[first, "serve", "--config", str(config)]], dict.fromkeys(upstreams, http)
    )


def apart(first: str, upstreams: Ports, folder: Path) -> System:
    """Front and router as two processes, with a link between them."""
    http, grpc = free_ports(2)
    router, front = folder / "router.yaml", folder / "front.yaml"
    router.write_text(f"grpc: {{listen: 127.0.0.1:{grpc}}}\n" + _vllm(upstreams) + TELEMETRY)
    front.write_text(f"http: {{listen: 127.0.0.1:{http}}}\n" + TELEMETRY)
    target = f"127.0.0.1:{grpc}"
    return System(
        "apart",
        [
            [first, "router", "--config", str(router)],
            [first, "gateway", "--router", target, "--config", str(front)],
        ],
        dict.fromkeys(upstreams, http),
    )


Builder = Callable[[Ports, Path], System]
"""Makes a fresh system, with ports and files of its own, so that two can stand side by side."""


def builders(first: str, nginx_binary: str | None) -> dict[str, Builder]:
    """Every system between client and upstream, in the order of the table."""
    known: dict[str, Builder] = {}
    if nginx_binary is not None:
        binary = nginx_binary
        known["nginx"] = lambda ports, folder: nginx(binary, ports, folder)
    known["serve"] = lambda ports, folder: serve(first, ports, folder)
    known["apart"] = lambda ports, folder: apart(first, ports, folder)
    return known


def chat_body(model: str) -> bytes:
    """The smallest chat call, for asking whether a system answers yet."""
    content = [{"role": "user", "content": "hi"}]
    return json.dumps({"model": model, "messages": content}).encode()
