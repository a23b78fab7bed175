import numpy as np
import torch
from backend_samples import context, untrained

from backends.engine.port import Engine, Piece, warm
from backends.engine.torch_cpu import TorchEngine
from backends.model import predict


def test_folding_the_first_read_into_the_bias_changes_nothing() -> None:
    checkpoint = untrained()
    vectors = context(40)
    with torch.inference_mode():
        whole = torch.tensor(vectors)[None]
        expected = predict(whole, checkpoint.model(whole))[0].numpy()
    found = TorchEngine(checkpoint, threads=1).run([Piece(vectors)])[0].vector
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_it_reads_a_view_of_a_body_that_nobody_may_write() -> None:
    vectors = np.frombuffer(context(3).tobytes(), dtype="<f4").reshape(3, 768)
    assert TorchEngine(untrained(), threads=1).run([Piece(vectors)])[0].vector.shape == (768,)


def test_the_same_window_gets_the_same_bits() -> None:
    engine = TorchEngine(untrained(), threads=1)
    warm(engine, 5)
    once, again = (engine.run([Piece(context(9))])[0].vector for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_it_keeps_the_port() -> None:
    engine: Engine = TorchEngine(untrained(), threads=1)
    assert engine.capabilities.name == "torch"
