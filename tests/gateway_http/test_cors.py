from __future__ import annotations

import aiohttp
import pytest

ORIGIN = "https://chat.example.org"
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


@pytest.fixture
async def http(start):
    """A client of a front that pages of one origin may call."""
    url = (await start(cors_allow_origins=[ORIGIN])).url
    async with aiohttp.ClientSession(url) as session:
        yield session


async def test_preflight_is_answered(http):
    """A browser that asks first is told what it may send."""
    async with http.options("/v1/chat/completions", headers=PREFLIGHT) as answer:
        headers = answer.headers

    assert answer.status == 204
    assert headers["access-control-allow-origin"] == ORIGIN
    assert headers["access-control-allow-methods"] == "POST"
    assert headers["access-control-allow-headers"] == "authorization,content-type"


async def test_answers_name_the_origin(http):
    """A page may read the answer and the headers that matter."""
    async with http.get("/v1/models", headers={"origin": ORIGIN}) as answer:
        headers = answer.headers

    assert headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in headers["access-control-expose-headers"]
    assert headers["vary"] == "Origin"


async def test_streams_name_the_origin(http, router):
    """A page may read a stream."""
    router.streams(b"data: 1\n\n")
    body = {"model": "m", "stream": True}
    async with http.post("/v1/completions", json=body, headers={"origin": ORIGIN}) as answer:
        data = await answer.read()

    assert data == b"data: 1\n\n"
    assert answer.headers["access-control-allow-origin"] == ORIGIN


async def test_other_origins_are_not_allowed(http):
    """A page of another origin learns nothing."""
    headers = {**PREFLIGHT, "origin": "https://evil.example"}
    async with http.options("/v1/chat/completions", headers=headers) as answer:
        status = answer.status

    assert status == 405
    assert "access-control-allow-origin" not in answer.headers


async def test_star_allows_every_origin(start, aiohttp_session):
    """`*` allows all pages, each by its name."""
    url = (await start(cors_allow_origins=["*"])).url
    async with aiohttp_session.get(f"{url}/health", headers={"origin": ORIGIN}) as answer:
        headers = answer.headers

    assert headers["access-control-allow-origin"] == ORIGIN


async def test_no_origins_means_no_headers(url, aiohttp_session):
    """By default no page may call."""
    async with aiohttp_session.get(f"{url}/health", headers={"origin": ORIGIN}) as answer:
        headers = answer.headers

    assert "access-control-allow-origin" not in headers
    assert "vary" not in headers
