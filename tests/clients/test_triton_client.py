"""`tritonclient[http]`, as it is published, against a model server and against the gateway."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

MODEL = "lvm"
OUTPUTS = ("PREDICTION", "NEIGHBOR_IDS", "NEIGHBOR_SCORES")


@pytest.fixture
def client(address: str) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(address) as client:
        yield client


def asked(context: Any, *, binary: bool = True) -> list[InferInput]:
    tensor = InferInput("CONTEXT", list(context.shape), "FP32")
    tensor.set_data_from_numpy(context, binary_data=binary)
    return [tensor]


def read(result: Any) -> list[Any]:
    return [result.as_numpy(name) for name in OUTPUTS]


def outputs(*, binary: bool) -> list[InferRequestedOutput]:
    return [InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]


def test_it_finds_the_server_live_and_ready_and_the_model_described(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    model = client.get_model_metadata(MODEL)
    assert (model["name"], model["inputs"][0]["shape"]) == (MODEL, [1, -1, 768])
    (version, *_) = model["versions"]
    assert client.is_model_ready(MODEL, version)
    assert client.get_model_metadata(MODEL, version) == model
    assert client.get_model_config(MODEL, version)["input"][0]["data_type"] == "TYPE_FP32"
    (index, *_) = client.get_model_repository_index()
    assert (index["name"], index["version"], index["state"]) == (MODEL, version, "READY")


@pytest.mark.parametrize("in_binary", [True, False])
@pytest.mark.parametrize("out_binary", [True, False, None])
def test_json_and_binary_are_the_same_numbers_in_every_mix(
    client: Any, context: Any, in_binary: bool, out_binary: bool | None
) -> None:
    named = None if out_binary is None else outputs(binary=out_binary)
    expected = read(client.infer(MODEL, asked(context)))
    result = client.infer(MODEL, asked(context, binary=in_binary), outputs=named)
    vector, ids, scores = read(result)
    for ours, theirs in zip((vector, ids, scores), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (vector.shape, vector.dtype) == ((1, 768), np.float32)
    assert (ids.shape, ids.dtype, scores.shape) == ((1, 10), np.int64, (1, 10))
    assert not set(range(1100, 1120)) & set(ids[0].tolist())
    assert (np.diff(scores[0]) <= 0).all()


def test_top_k_and_the_request_id_are_the_clients_to_choose(client: Any, context: Any) -> None:
    result = client.infer(
        MODEL, asked(context), request_id="mine", parameters={"top_k": 3, "exclude_context": False}
    )
    assert result.as_numpy("NEIGHBOR_IDS").shape == (1, 3)
    response = result.get_response()
    assert (response["id"], response["model_name"]) == ("mine", MODEL)
    assert len(response["parameters"]["checkpoint"]) == len(response["parameters"]["bank"]) == 64
    one = client.infer(MODEL, asked(context), outputs=[InferRequestedOutput("NEIGHBOR_IDS")])
    assert one.as_numpy("PREDICTION") is None


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_a_compressed_request_is_answered_alike(
    client: Any, context: Any, algorithm: str, binary: bool
) -> None:
    plain = client.infer(MODEL, asked(context, binary=binary))
    packed = client.infer(
        MODEL,
        asked(context, binary=binary),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    for ours, theirs in zip(read(packed), read(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_version_and_what_is_reserved_are_accepted(client: Any, context: Any) -> None:
    version = client.get_model_metadata(MODEL)["versions"][0]
    result = client.infer(
        MODEL,
        asked(context),
        model_version=version,
        sequence_id=7,
        sequence_start=True,
        priority=1,
        timeout=30_000_000,
    )
    assert result.get_response()["model_version"] == version


def test_statistics_count_what_this_client_asked(client: Any, context: Any) -> None:
    def count() -> int:
        (model,) = client.get_inference_statistics(MODEL)["model_stats"]
        assert client.get_inference_statistics()["model_stats"][0]["name"] == MODEL
        found: int = model["inference_stats"]["success"]["count"]
        return found

    before = count()
    client.infer(MODEL, asked(context))
    assert count() == before + 1


def test_many_requests_at_once_come_back_to_whom_they_belong(address: str, context: Any) -> None:
    with InferenceServerClient(address, concurrency=4) as client:
        wanted = [context[:, : 1 + i] for i in range(12)]
        under_way = [client.async_infer(MODEL, asked(one)) for one in wanted]
        together = [one.get_result().as_numpy("PREDICTION") for one in under_way]
        alone = [client.infer(MODEL, asked(one)).as_numpy("PREDICTION") for one in wanted]
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outputs": [InferRequestedOutput("ELSE")]}, "outputs[0] names 'ELSE': the outputs are"),
        ({"parameters": {"top_k": 0}}, "parameters.top_k must be a whole number from 1 to 1000"),
        ({"model_name": "other"}, 'no model is called "other": this server has "lvm"'),
        ({"model_version": "17"}, '"17"'),
        (
            {"outputs": [InferRequestedOutput("PREDICTION", class_count=3)]},
            "classification is set: this server has no such extension",
        ),
    ],
)
def test_what_we_say_of_a_mistake_is_what_the_client_raises(
    client: Any, context: Any, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InferenceServerException) as error:
        client.infer(**{"model_name": MODEL, "inputs": asked(context), **change})
    assert words in error.value.message()
    assert error.value.status() in {"400", "404"}


def test_a_wrong_tensor_and_a_long_one_are_named(client: Any, context: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"shape is \[20, 768\]: CONTEXT has"):
        client.infer(MODEL, asked(context[0]))
    with pytest.raises(InferenceServerException, match="2001 vectors") as error:
        client.infer(MODEL, asked(np.zeros((1, 2001, 768), np.float32)))
    assert error.value.status() == "413"
    broken = context.copy()
    broken[0, 3, 0] = np.nan
    with pytest.raises(InferenceServerException, match=r"inputs\[0\]\[3\]\[0\] is NaN"):
        client.infer(MODEL, asked(broken))


def test_a_body_beyond_the_limit_gets_its_413_through(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="longer than 64 MiB") as error:
        client.infer(MODEL, asked(np.zeros((1, 22_000, 768), np.float32)))
    assert error.value.status() == "413"
