import numpy as np
import pytest
import torch
from backend_samples import context, untrained
from numpy.typing import NDArray
from scipy.special import erf, expit

from backends.checkpoint import seeded
from backends.model import Config, MemoryAugmentedGRU, predict

Array = NDArray[np.float64]
Weights = dict[str, Array]


def test_it_has_exactly_11_292_160_trainable_parameters() -> None:
    model = MemoryAugmentedGRU(Config())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 11_292_160


def test_its_state_dict_has_the_names_and_shapes_of_the_original_checkpoints() -> None:
    shapes = {name: tuple(t.shape) for name, t in untrained().model.state_dict().items()}
    layers = {
        f"gru.{name}_l{layer}": shape
        for layer in range(4)
        for name, shape in {
            "weight_ih": (1536, 512 if layer else 1536),
            "weight_hh": (1536, 512),
            "bias_ih": (1536,),
            "bias_hh": (1536,),
        }.items()
    }
    assert shapes == layers | {
        "memory.memory": (2048, 768),
        "memory.query_proj.weight": (768, 512),
        "memory.query_proj.bias": (768,),
        "memory.write_gate.weight": (2048, 512),
        "memory.write_gate.bias": (2048,),
        "input_norm.weight": (768,),
        "input_norm.bias": (768,),
        "fusion.0.weight": (512, 1280),
        "fusion.0.bias": (512,),
        "fusion.3.weight": (512,),
        "fusion.3.bias": (512,),
        "output_proj.0.weight": (1024, 512),
        "output_proj.0.bias": (1024,),
        "output_proj.3.weight": (768, 1024),
        "output_proj.3.bias": (768,),
    }


# --- the same model a second time, in numpy and float64, written from DESIGN section 5 -----------


def unit(x: Array) -> Array:
    result: Array = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return result


def layer_norm(w: Weights, name: str, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled: Array = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w: Weights, name: str, x: Array) -> Array:
    result: Array = w[f"{name}.weight"] @ x + w[f"{name}.bias"]
    return result


def gelu(x: Array) -> Array:
    result: Array = x * (1 + erf(x / np.sqrt(2))) / 2
    return result


def read_memory(w: Weights, state: Array) -> Array:
    cosines = unit(w["memory.memory"]) @ unit(linear(w, "memory.query_proj", state))
    weights = np.exp(cosines) / np.exp(cosines).sum()
    result: Array = weights @ w["memory.memory"]
    return result


def gru_layer(w: Weights, layer: int, inputs: list[Array]) -> list[Array]:
    state, states = np.zeros(512), []
    for x in inputs:
        from_input = w[f"gru.weight_ih_l{layer}"] @ x + w[f"gru.bias_ih_l{layer}"]
        from_state = w[f"gru.weight_hh_l{layer}"] @ state + w[f"gru.bias_hh_l{layer}"]
        reset = expit(from_input[:512] + from_state[:512])
        update = expit(from_input[512:1024] + from_state[512:1024])
        new = np.tanh(from_input[1024:] + reset * from_state[1024:])
        state = (1 - update) * new + update * state
        states.append(state)
    return states


def delta_by_formula(w: Weights, vectors: Array, *, unit_length: bool) -> Array:
    first_read = read_memory(w, np.zeros(512))
    steps = [np.concatenate([layer_norm(w, "input_norm", x), first_read]) for x in vectors]
    for layer in range(4):
        steps = gru_layer(w, layer, steps)
    both = np.concatenate([steps[-1], read_memory(w, steps[-1])])
    fused = layer_norm(w, "fusion.3", gelu(linear(w, "fusion.0", both)))
    raw = linear(w, "output_proj.3", gelu(linear(w, "output_proj.0", fused)))
    return unit(raw) if unit_length else raw


@pytest.mark.parametrize("config", [Config("unit"), Config("free")], ids=lambda c: c.delta)
def test_its_forward_pass_is_the_formula_in_numpy(config: Config) -> None:
    model = seeded(3, config).model
    weights = {name: t.double().numpy() for name, t in model.state_dict().items()}
    for name, weight in weights.items():  # a norm starts as the identity: move it, to test it
        if name.startswith(("input_norm", "fusion.3")):
            np.add(weight, np.random.default_rng(4).normal(0, 0.1, weight.shape), out=weight)
    model.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
    vectors = np.stack([context(7, seed=1), context(7, seed=2)])
    found = model(torch.tensor(vectors))
    for row, one in zip(found.numpy(), vectors.astype(np.float64), strict=True):
        expected = delta_by_formula(weights, one, unit_length=config.delta == "unit")
        np.testing.assert_allclose(row, expected, atol=2e-6)


def test_a_unit_delta_has_length_1_and_a_free_one_need_not() -> None:
    vectors = torch.tensor(context(3))[None]
    assert seeded(1, Config("unit")).model(vectors).norm().item() == pytest.approx(1, abs=1e-5)
    assert seeded(1, Config("free")).model(vectors).norm().item() != pytest.approx(1, abs=1e-2)


def test_a_prediction_is_the_last_vector_moved_by_the_delta_and_brought_to_length_1() -> None:
    vectors = torch.tensor(context(2))[None]
    delta = torch.tensor(context(1, seed=9))
    expected = unit((vectors[0, -1] + delta[0]).double().numpy())
    np.testing.assert_allclose(predict(vectors, delta)[0].numpy(), expected, atol=1e-6)


def test_a_config_refuses_an_unknown_delta() -> None:
    with pytest.raises(ValueError, match='it must be "unit" or "free"'):
        Config("long")  # type: ignore[arg-type]  # what a file may hold
