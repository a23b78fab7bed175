"""Which requests a replay sends: real text, many lengths, the same every time."""

import itertools

import orjson

from deploy.chains import load_chains
from deploy.replay import queries

CHAINS = load_chains().chains


def test_two_replays_of_one_seed_send_the_same_requests_and_another_seed_does_not() -> None:
    first, again, other = (
        [(query.chain.title, query.length) for query in itertools.islice(queries(CHAINS, seed), 50)]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_lengths_go_from_a_few_vectors_to_more_than_any_tier_reads() -> None:
    lengths = [query.length for query in itertools.islice(queries(CHAINS, 1), 2000)]
    assert min(lengths) >= 5
    assert max(lengths) > 500
    assert 0.30 < sum(length <= 100 for length in lengths) / len(lengths) < 0.40


def test_a_querys_truth_is_the_chunk_after_its_context() -> None:
    for query in itertools.islice(queries(CHAINS, 3), 20):
        body = orjson.loads(query.body())
        assert len(body["context"]) == query.length
        assert query.target == query.chain.ids[query.length]
