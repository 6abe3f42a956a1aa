from __future__ import annotations

import json

import pytest

PATH = "/v1/audio/transcriptions"
TYPE = "content-type: multipart/form-data; boundary=XX"


def part(name: str, value: bytes, more: str = "") -> bytes:
    """Return one part, its delimiter first."""
    return (
        f'--XX\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()
        + value
        + b"\r\n"
    )


AUDIO = part(
    "file", b"\x00\xff--XX-not\r\n\r\n\r\n", '; filename="a.wav"\r\nContent-Type: audio/wav'
)
MODEL = part("model", b"m")
END = b"--XX--\r\n"


@pytest.fixture
def upload(raw, post):
    """Sends a body, and returns the answer."""

    async def send(body, content_type=TYPE):
        await raw.send(post(PATH, body, content_type))
        return await raw.answer()

    return send


@pytest.mark.parametrize(
    "body",
    [
        AUDIO + MODEL + END,
        MODEL + AUDIO + END,
        b"preamble\r\n" + MODEL + END + b"epilogue",
        MODEL + part("stream", b"false") + END,
        part("model", b"first") + MODEL + END,
    ],
    ids=["last", "first", "preamble", "no stream", "twice"],
)
async def test_form_passes_untouched(upload, router, body):
    """The router gets the form byte for byte, with its type."""
    answer = await upload(body)

    assert answer.status == 200
    assert router.requests[0].body == body
    assert router.requests[0].content_type == "multipart/form-data; boundary=XX"


@pytest.mark.parametrize("value", [b"true", b"True", b"1"])
async def test_form_can_ask_for_a_stream(upload, router, value):
    """`stream` is a field of the form."""
    router.streams(b"data: 1\n\n")
    answer = await upload(MODEL + part("stream", value) + END)

    assert answer.body == b"data: 1\n\n"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (AUDIO + END, "model"),
        (part("model", b" ") + END, "model"),
        (MODEL + part("stream", b"maybe") + END, "stream"),
        (MODEL, "body"),
        (b"{}", "body"),
        (b"", "body"),
        (MODEL * 300 + END, "body"),
    ],
    ids=["no model", "blank", "stream", "cut", "json", "empty", "parts"],
)
async def test_bad_form_is_refused(upload, router, body, param):
    """What is no whole form with a model never reaches the router."""
    answer = await upload(body)

    assert answer.status == 400
    assert json.loads(answer.body)["error"]["param"] == param
    assert router.requests == []


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("content-type: application/json", 415),
        ("content-type: multipart/form-data", 400),
        ("content-type: multipart/mixed; boundary=XX", 415),
        ("x: y", 400),
    ],
)
async def test_form_must_call_itself_one(upload, content_type, status):
    """The content type must be a form's, with a boundary."""
    answer = await upload(MODEL + END, content_type)

    assert answer.status == status
    assert json.loads(answer.body)["error"]["param"] == "content-type"


@pytest.mark.parametrize("boundary", ['"XX"', "XX; charset=utf-8", '"XX" '])
async def test_boundary_may_be_quoted(upload, boundary):
    """The boundary may stand in quotes and before other parameters."""
    answer = await upload(MODEL + END, f"content-type: multipart/form-data; boundary={boundary}")

    assert answer.status == 200
