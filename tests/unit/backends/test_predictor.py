import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from backend_samples import answer, bank, context, untrained
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engine.port import Piece, Reading
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


def test_a_context_that_was_read_before_costs_no_step_and_gets_the_same_answer() -> None:
    known = remembering(40)
    first = answer(known, Request(CONTEXT))
    task = known.prepare(known.question(Request(CONTEXT)))
    assert (task.length, known.prefix_outcome(task)) == (0, "hit")
    again = answer(known, Request(CONTEXT))
    np.testing.assert_allclose(again.vector, first.vector, atol=2e-6)
    assert again.ids.tolist() == first.ids.tolist()
    assert (again.length, again.window, len(known.prefixes)) == (30, 30, 1)


class Counting(TorchEngine):
    """Counts the vectors that it reads."""

    read = 0

    def run(self, pieces: Sequence[Piece]) -> list[Reading]:
        self.read += sum(len(piece.vectors) for piece in pieces)
        return super().run(pieces)


@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=6))
@settings(deadline=None, max_examples=30)
def test_whatever_is_known_of_a_batch_its_answers_are_those_of_reading_all(
    batches: list[list[int]],
) -> None:
    engine = Counting(untrained(), threads=1)
    known, whole = dataclasses.replace(remembering(12), engine=engine), predictor(12)
    seen: set[int] = set()
    for lengths in batches:
        before = engine.read
        tasks = [known.prepare(known.question(Request(CONTEXT[:n]))) for n in lengths]
        for n, task, outcome in zip(lengths, tasks, known.read(tasks).outcomes, strict=True):
            known.settle(task, outcome)
            assert outcome.prediction is not None
            expected = answer(whole, Request(CONTEXT[:n]))
            np.testing.assert_allclose(outcome.prediction.vector, expected.vector, atol=2e-6)
            np.testing.assert_array_equal(outcome.prediction.ids, expected.ids)
        longest = [max((s for s in seen if s <= n), default=0) for n in lengths]
        assert engine.read - before == sum(lengths) - sum(longest)
        seen |= set(lengths)
