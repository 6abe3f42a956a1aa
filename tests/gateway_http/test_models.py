from __future__ import annotations

import pytest

from first_core.errors import UnauthenticatedError
from first_proto.v1.catalog_pb2 import Model


@pytest.fixture
def models(router):
    """Two models in the catalog, one of them with a slash in its name."""
    large = Model(id="meta-llama/Llama-3", owner="alpha", context_window_token_count=8192)
    large.create_time.FromSeconds(1_700_000_000)
    small = Model(id="small")
    router.models = [large, small]


LARGE = {
    "id": "meta-llama/Llama-3",
    "object": "model",
    "created": 1_700_000_000,
    "owned_by": "alpha",
    "max_model_len": 8192,
}


@pytest.mark.parametrize("channel", ["direct", "grpc"], indirect=True)
@pytest.mark.parametrize("path", ["/v1/models", "/resource_server/v1/models"])
@pytest.mark.usefixtures("models")
async def test_list_has_openai_shape(http, path):
    """Each model has id, creation time and owner, and its window where it is known."""
    async with http.get(path) as answer:
        document = await answer.json()

    assert document["object"] == "list"
    assert document["data"][0] == LARGE
    assert "max_model_len" not in document["data"][1]


async def test_empty_catalog_is_an_empty_list(http):
    """A gateway without models says so, and does not fail."""
    async with http.get("/v1/models") as answer:
        document = await answer.json()

    assert document == {"object": "list", "data": []}


@pytest.mark.usefixtures("models")
async def test_model_may_have_a_slash(http):
    """Ids contain slashes, quoted or not."""
    async with http.get("/v1/models/meta-llama/Llama-3") as answer:
        document = await answer.json()

    assert document == LARGE


@pytest.mark.usefixtures("models")
async def test_unknown_model_is_not_found(http):
    """A model that is not there is OpenAI's `model_not_found`."""
    async with http.get("/v1/models/other/one") as answer:
        error = (await answer.json())["error"]

    assert (answer.status, error["code"], error["param"]) == (404, "model_not_found", "model")


@pytest.mark.usefixtures("models")
async def test_list_has_anthropic_shape_for_its_clients(http):
    """A client that names Anthropic's API version gets Anthropic's list."""
    async with http.get("/v1/models", headers={"anthropic-version": "2023-06-01"}) as answer:
        document = await answer.json()

    assert document["data"][0] == {
        "type": "model",
        "id": "meta-llama/Llama-3",
        "display_name": "meta-llama/Llama-3",
        "created_at": "2023-11-14T22:13:20Z",
    }
    assert (document["first_id"], document["last_id"]) == ("meta-llama/Llama-3", "small")


async def test_credential_goes_along(http, router):
    """What a caller may see depends on who it is."""
    async with http.get("/v1/models", headers={"authorization": "Bearer t"}):
        pass

    assert router.metadata[0]["authorization"] == "Bearer t"


@pytest.mark.parametrize(
    ("error", "status"), [(UnauthenticatedError("who?"), 401), (ValueError("bug"), 500)]
)
async def test_error_is_an_answer(http, router, error, status):
    """What the catalog refuses is told as for calls."""
    router.error = error
    async with http.get("/v1/models") as answer:
        document = await answer.json()

    assert answer.status == status
    assert "message" in document["error"]
