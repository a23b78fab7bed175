from backends.metadata import (
    model_config,
    model_list,
    model_metadata,
    repository_index,
    server_metadata,
)
from backends.statistics import Statistics, Tally


def test_metadata_announces_the_binary_extension_and_a_context_of_any_length() -> None:
    assert server_metadata("1")["extensions"] == ["binary_tensor_data"]
    assert model_list() == {"models": ["lvm"]}
    assert model_metadata(["a"])["inputs"][0]["shape"] == [1, -1, 768]
    assert model_metadata(["a"], {"trained": False})["parameters"] == {"trained": False}


def test_the_configuration_names_the_same_tensors_in_tritons_words() -> None:
    model, config = model_metadata(["a"]), model_config()
    for ours, theirs in (("inputs", "input"), ("outputs", "output")):
        assert [(one["name"], f"TYPE_{one['datatype']}", one["shape"]) for one in model[ours]] == [
            (one["name"], one["data_type"], one["dims"]) for one in config[theirs]
        ]


def test_a_version_that_cannot_answer_is_listed_with_its_reason() -> None:
    assert repository_index(["a"])[0]["state"] == "READY"
    (one,) = repository_index(["a"], "it loads")
    assert (one["state"], one["reason"]) == ("UNAVAILABLE", "it loads")


def test_statistics_add_up_over_runs_of_every_size() -> None:
    statistics = Statistics()
    statistics.succeeded(70)
    statistics.succeeded(30)
    statistics.failed(5)
    runs = {4: Tally(1, 40), 1: Tally(2, 20)}
    document = statistics.document("v", queue=Tally(6, 9), compute=Tally(6, 60), batches=runs)
    (model,) = document["model_stats"]
    assert (model["inference_count"], model["execution_count"]) == (2, 3)
    assert model["inference_stats"]["success"] == {"count": 2, "ns": 100}
    assert model["inference_stats"]["fail"] == {"count": 1, "ns": 5}
    assert [one["batch_size"] for one in model["batch_stats"]] == [1, 4]
    assert model["batch_stats"][1]["compute_infer"] == {"count": 1, "ns": 40}
