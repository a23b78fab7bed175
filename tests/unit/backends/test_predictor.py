import dataclasses

import numpy as np
import pytest
from backend_samples import answer, bank, context, untrained

from backends.engine.torch_cpu import TorchEngine
from backends.errors import NotFiniteError
from backends.predictor import Predictor
from backends.prefix import PrefixStates
from backends.protocol import Request

BANK = context(40)
CONTEXT = BANK[:30]


def predictor(window: int) -> Predictor:
    return Predictor(
        engine=TorchEngine(untrained(), threads=1),
        bank=bank(BANK),
        window=window,
        checkpoint=untrained().identity,
        trained=False,
    )


def test_the_model_reads_the_newest_vectors_of_the_window() -> None:
    whole = answer(predictor(10), Request(CONTEXT))
    cut = answer(predictor(10), Request(CONTEXT[-10:]))
    np.testing.assert_array_equal(whole.vector, cut.vector)
    assert (whole.length, whole.window, whole.truncated) == (30, 10, True)
    assert (cut.length, cut.window, cut.truncated) == (10, 10, False)


def test_neighbours_leave_out_the_whole_context_not_only_the_window() -> None:
    found = answer(predictor(10), Request(CONTEXT, top_k=40))
    assert set(found.ids.tolist()) == set(range(1030, 1040))


def test_neighbours_keep_the_context_on_request() -> None:
    found = answer(predictor(10), Request(CONTEXT, top_k=40, exclude_context=False))
    assert len(found.ids) == 40


def test_an_answer_names_what_computed_it() -> None:
    found = answer(predictor(10), Request(CONTEXT))
    assert (found.checkpoint, found.bank) == (untrained().identity, "ba" * 32)


def test_an_answer_that_is_not_finite_is_the_engines_failure_and_not_the_clients() -> None:
    with pytest.raises(NotFiniteError, match=r"the engine failed.*is not finite") as error:
        answer(predictor(10), Request(CONTEXT * np.float32(1e38)))
    assert error.value.status == 500
    assert "though every number of the context is" in str(error.value)


def test_its_facts_say_untrained_weights_in_so_many_words() -> None:
    assert predictor(10).facts["weights"] == "untrained weights"
    assert predictor(10).facts["trained"] is False


def remembering(window: int) -> Predictor:
    return dataclasses.replace(predictor(window), prefixes=PrefixStates(1 << 20))


def test_a_context_that_grew_by_one_vector_costs_one_step_and_gets_the_same_answer() -> None:
    known = remembering(40)
    answer(known, Request(CONTEXT[:29]))
    task = known.prepare(known.question(Request(CONTEXT)))
    assert (task.length, known.prefix_outcome(task)) == (1, "hit")
    grown, whole = answer(known, Request(CONTEXT)), answer(predictor(40), Request(CONTEXT))
    assert (grown.prefix, whole.prefix) == ("hit", "off")
    np.testing.assert_allclose(grown.vector, whole.vector, atol=2e-6)
    assert grown.ids.tolist() == whole.ids.tolist()
    assert grown.window == 30


def test_a_window_that_slid_is_read_whole() -> None:
    known = remembering(10)
    answer(known, Request(CONTEXT[:29]))
    task = known.prepare(known.question(Request(CONTEXT)))
    assert (task.length, known.prefix_outcome(task)) == (10, "slid")
    assert len(known.prefixes) == 0


def test_an_unknown_context_is_a_miss_and_without_room_nothing_is_known() -> None:
    task = remembering(40).prepare(remembering(40).question(Request(CONTEXT)))
    assert remembering(40).prefix_outcome(task) == "miss"
    bare = predictor(40)
    assert bare.prefix_outcome(bare.prepare(bare.question(Request(CONTEXT)))) == "off"
