"""`kserve`'s inference client, as it is published, against a model server and the gateway."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceRESTClient, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

MODEL = "lvm"
T = TypeVar("T")


def ask(work: Callable[[InferenceRESTClient], Awaitable[T]]) -> T:
    """Do something with a client of its own."""

    async def run() -> T:
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            return await work(client)

    return asyncio.run(run())


def asked(context: Any, *, binary: bool, **more: Any) -> InferRequest:
    tensor = InferInput("CONTEXT", list(context.shape), "FP32")
    tensor.set_data_from_numpy(context, binary_data=binary)
    return InferRequest(MODEL, [tensor], **more)


def infer(address: str, request: Any, model: str = MODEL) -> Any:
    return ask(lambda client: client.infer(f"http://{address}", request, model_name=model))


def read(response: Any) -> dict[str, Any]:
    return {output.name: output.as_numpy() for output in response.outputs}


def test_it_finds_the_server_live_and_ready_and_the_model_too(address: str) -> None:
    url = f"http://{address}"
    assert ask(lambda client: client.is_server_live(url)) is True
    assert ask(lambda client: client.is_server_ready(url)) is True
    assert ask(lambda client: client.is_model_ready(url, MODEL)) is True
    assert ask(lambda client: client.is_model_ready(url, "other")) is False


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_json_and_binary_are_the_same_numbers_in_every_mix(
    address: str, context: Any, binary: bool, binary_out: bool | None
) -> None:
    more = {} if binary_out is None else {"parameters": {"binary_data_output": binary_out}}
    expected = read(infer(address, asked(context, binary=True)))
    found = read(infer(address, asked(context, binary=binary, **more)))
    assert found.keys() == {"PREDICTION", "NEIGHBOR_IDS", "NEIGHBOR_SCORES"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])
    assert found["PREDICTION"].shape == (1, 768)
    assert not set(range(1100, 1120)) & set(found["NEIGHBOR_IDS"][0].tolist())


def test_top_k_the_id_and_the_wanted_outputs_are_the_clients_to_choose(
    address: str, context: Any
) -> None:
    request = asked(
        context,
        binary=True,
        request_id="mine",
        parameters={"top_k": 3},
        request_outputs=[RequestedOutput("NEIGHBOR_IDS", parameters={"binary_data": True})],
    )
    response = infer(address, request)
    assert (response.id, response.model_name) == ("mine", MODEL)
    found = read(response)
    assert list(found) == ["NEIGHBOR_IDS"]
    assert found["NEIGHBOR_IDS"].shape == (1, 3)


def test_what_we_say_of_a_mistake_is_what_the_client_raises(address: str, context: Any) -> None:
    for request, model, words in (
        (asked(context, binary=True), "other", 'no model is called "other"'),
        (asked(context[0], binary=True), MODEL, "inputs[0].shape is [20, 768]"),
        ({"inputs": []}, MODEL, '"inputs" must list exactly one tensor, CONTEXT; found 0'),
    ):
        with pytest.raises(httpx.HTTPStatusError) as error:
            infer(address, request, model)
        assert words in str(error.value)
