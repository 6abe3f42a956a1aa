"""Peers over TLS: who calls is told by the certificate alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import aio

from first_core.testing.simulator import Simulator, SimulatorSettings
from first_core.types import EndpointState
from first_core.wire.status import error_from_rpc
from first_proto.peer.v1 import peer_pb2, peer_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BOUND_S = 10.0

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture
def carrier() -> str:
    return "one_process"


class Authority:
    """Signs certificates, with the command line of OpenSSL."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.ca = folder / "ca.pem"
        self._run("req", "-x509", *_new_key(folder / "ca.key"), "-out", self.ca,
                  "-subj", f"/CN={folder.name}", "-days", "2")  # fmt: skip

    def _run(self, *words: Any) -> None:
        command = ["openssl", *map(str, words)]
        subprocess.run(command, check=True, capture_output=True, timeout=BOUND_S)

    def certificate(self, name: str) -> dict[str, str]:
        """Make a certificate with this DNS name; return its paths."""
        folder = self._folder
        paths = {"certificate": folder / f"{name}.pem", "key": folder / f"{name}.key"}
        request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName=DNS:{name},IP:127.0.0.1\n")
        self._run("req", *_new_key(paths["key"]), "-out", request, "-subj", f"/CN={name}")
        self._run("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", folder / "ca.key",
                  "-CAcreateserial", "-out", paths["certificate"], "-days", "2",
                  "-extfile", extensions)  # fmt: skip
        return {key: str(path) for key, path in paths.items()}


def _new_key(path: Path) -> list[Any]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path]


def fingerprint(certificate: dict[str, str]) -> str:
    with open(certificate["certificate"]) as file:  # noqa: PTH123 - a fixture's own file
        digits = hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read())).hexdigest().upper()
    return ":".join(digits[i : i + 2] for i in range(0, 64, 2))


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path / "good")


@pytest.fixture
async def far() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(models=("y",))) as sim:
        yield sim


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def open_far(open_gateway, authority, far):
    """Open `b`, which accepts `a` as a rule says: `async with open_far(rule) as address`."""

    @asynccontextmanager
    async def opener(accept: dict[str, str]) -> AsyncIterator[str]:
        address = f"127.0.0.1:{free_port()}"
        settings = {
            "name": "b",
            "listen": address,
            "client_ca": str(authority.ca),
            **authority.certificate("gateway-b"),
            "accept": [{"name": "a", **accept}],
        }
        vllm = {"servers": [{"url": far.url, "cluster": "b"}]}
        async with open_gateway(vllm=vllm, federation=settings):
            yield address

    return opener


@pytest.fixture
def open_pair(open_gateway, open_far, authority):
    """Open `b`, and `a` which asks it: `async with open_pair(rule, **peer) as a`."""

    @asynccontextmanager
    async def opener(accept: dict[str, str], **peer: Any) -> AsyncIterator[Any]:
        async with open_far(accept) as address:
            asked = {"name": "b", "target": address, "ca": str(authority.ca), **peer}
            async with open_gateway(federation={"name": "a", "peers": [asked]}) as a:
                yield a

    return opener


async def wait_known(gateway: Any) -> None:
    """Wait until the gateway knows a ready model."""
    await gateway.wait_catalog(
        lambda routes: any(m.state is EndpointState.READY for m in routes.models()),
        bound_s=BOUND_S,
    )


async def ask(gateway: Any) -> Any:
    body = {"model": "y", "messages": [{"role": "user", "content": "hi"}]}
    return await gateway.post("/v1/chat/completions", json.dumps(body).encode())


async def test_a_known_fingerprint_is_accepted(open_pair, authority):
    """Over TLS, with certificates on both sides, calls are answered."""
    own = authority.certificate("gateway-a")
    async with open_pair({"certificate_sha256": fingerprint(own)}, **own) as a:
        await wait_known(a)
        answer = await ask(a)

    assert answer.status == 200


async def test_a_known_dns_name_is_accepted(open_pair, authority):
    """A name among the alternative names of the certificate is enough, where settings say so."""
    own = authority.certificate("gateway-a")
    async with open_pair({"dns_name": "gateway-a"}, **own) as a:
        await wait_known(a)
        answer = await ask(a)

    assert answer.status == 200


async def test_the_peers_own_name_is_checked(open_pair, authority):
    """`server_name` names what the peer's certificate must be for."""
    own = authority.certificate("gateway-a")
    accept = {"dns_name": "gateway-a"}
    async with open_pair(accept, **own, server_name="gateway-b") as a:
        await wait_known(a)
        answer = await ask(a)

    assert answer.status == 200


def credentials(authority: Authority, own: dict[str, str]) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        authority.ca.read_bytes(), *(Path(own[k]).read_bytes() for k in ("key", "certificate"))
    )


async def claim(address: str, authority: Authority, own: dict[str, str], name: str) -> Any:
    """Ask for the catalog with this certificate under this name; return the refusal."""
    async with aio.secure_channel(address, credentials(authority, own)) as channel:
        stub = peer_pb2_grpc.PeerServiceStub(channel)
        watch = stub.WatchCatalog(peer_pb2.WatchCatalogRequest(gateway=name))
        with pytest.raises(aio.AioRpcError) as caught:
            await watch.read()
        return error_from_rpc(caught.value)


@pytest.mark.parametrize("kind", ["certificate_sha256", "dns_name"])
async def test_another_certificate_of_the_same_authority_is_refused(open_far, authority, kind):
    """That the authority has signed it does not make it the peer's, whatever name is claimed."""
    own, other = authority.certificate("gateway-a"), authority.certificate("gateway-x")
    rule = {"certificate_sha256": fingerprint(own), "dns_name": "gateway-a"}[kind]
    async with open_far({kind: rule}) as address:
        error = await claim(address, authority, other, "a")

    assert error.reason == "PERMISSION_DENIED"


async def test_a_certificate_under_another_name_is_refused(open_far, authority):
    """Lists of hops are made of names, so that nobody may call itself by another's."""
    own = authority.certificate("gateway-a")
    async with open_far({"dns_name": "gateway-a"}) as address:
        error = await claim(address, authority, own, "c")

    assert error.reason == "PERMISSION_DENIED"
    assert error.metadata == {"gateway": "a", "claimed": "c"}


async def test_a_certificate_of_another_authority_finds_no_way(open_pair, tmp_path):
    """A peer whose authority is not ours is turned away by TLS."""
    other = Authority(tmp_path / "bad")
    async with open_pair({"dns_name": "gateway-a"}, **other.certificate("gateway-a")) as a:
        models = await a.get("/v1/models")

    assert models.json()["data"] == []


async def test_a_server_of_another_authority_is_not_asked(open_pair, authority, tmp_path):
    """Each peer is trusted by its own authority only."""
    own, other = authority.certificate("gateway-a"), Authority(tmp_path / "bad")
    accept = {"dns_name": "gateway-a"}
    async with open_pair(accept, **own, ca=str(other.ca)) as a:
        models = await a.get("/v1/models")

    assert models.json()["data"] == []


async def test_a_server_with_another_name_is_not_asked(open_pair, authority):
    """A certificate of the right authority for another name is not the peer's."""
    own = authority.certificate("gateway-a")
    async with open_pair({"dns_name": "gateway-a"}, **own, server_name="gateway-z") as a:
        models = await a.get("/v1/models")

    assert models.json()["data"] == []
