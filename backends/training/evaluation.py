"""Ask both arms the same held-out questions, beside baselines and an ablation.

Every system gets the same questions and the same candidates. What is measured is in `Evaluation`;
how, in questions.py, ranks.py, pools.py and sequences.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich.progress import Progress

from backends.model import MemoryAugmentedGRU
from backends.training.baselines import BASELINES
from backends.training.pools import hit_chance
from backends.training.questions import BUCKETS, Question, name_bucket
from backends.training.ranks import BLOCK, KS, Floats, Ints, rank_truths, summarize
from backends.training.recurrence import predict_positions
from backends.training.sequences import mean_interval

POOLS: Final = (230, 1_149, 10_000)
HIT: Final = 5
CLIP: Final = 0.2
"""A chain's mean difference is cut to this before it is tested: a bet needs a bound."""
_BATCH: Final = 64
_LONG: Final = 100

Half = NDArray[np.float16]
Figures = dict[str, float]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Difference(_Frozen):
    """Hit@5 of one system less another's, in points, by chain: mean and confidence sequence.

    `clipped` chains had a mean beyond 20 points, which counts as 20.
    """

    of: str
    less: str
    where: str
    chains: int
    queries: int
    clipped: int
    mean: float
    low: float
    high: float


class System(_Frozen):
    """One system's figures: over the whole bank, the published way, by length, by pool."""

    name: str
    whole: Figures
    targets_alone: Figures
    by_length: dict[str, Figures]
    by_pool: dict[str, Figures]


class Evaluation(_Frozen):
    """What was asked, of which set, and every system's figures."""

    title: str
    queries: int
    chains: int
    bank: int
    lengths: dict[str, int]
    systems: tuple[System, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Arm:
    """A model and how many of the newest vectors it reads."""

    name: str
    model: MemoryAugmentedGRU
    window: int


def evaluate(
    arms: Sequence[Arm],
    bank: Half,
    questions: Sequence[Question],
    title: str,
    progress: Progress,
) -> Evaluation:
    """Evaluate arms and baselines over `bank` [N, 768], whose rows the questions name."""
    predicted = {arm.name: predict_all(arm, bank, questions, progress) for arm in arms}
    begins = np.array([question.start for question in questions])
    ends = np.array([question.truth for question in questions])
    predicted |= {b.name: b.predict(bank, begins, ends) for b in BASELINES}
    truths = np.asarray(bank[ends], dtype=np.float32)
    ranks = _rank_all(predicted, truths, bank, questions, progress)
    lengths = ends - begins
    others = len(bank) - 1 - lengths
    systems = tuple(
        _system(name, predicted[name], truths, ranks[name], others, lengths) for name in predicted
    )
    return Evaluation(
        title=title,
        queries=len(questions),
        chains=len({question.chain for question in questions}),
        bank=len(bank),
        lengths={name_bucket(*b): int(_within(lengths, b).sum()) for b in BUCKETS},
        systems=systems,
        differences=tuple(_differences(arms, ranks, questions)),
    )


def _rank_all(
    predicted: Mapping[str, Floats],
    truths: Floats,
    bank: Half,
    questions: Sequence[Question],
    progress: Progress,
) -> dict[str, Ints]:
    """Rank the truths for every system in one walk through the bank."""
    blocks = -(-len(bank) // BLOCK)
    task = progress.add_task(f"ranking among {len(bank):,}", total=blocks)
    own = [np.arange(question.start, question.truth) for question in questions]
    ranks = rank_truths(
        np.concatenate(list(predicted.values())),
        np.tile(truths, (len(predicted), 1)),
        bank,
        own * len(predicted),
        lambda: progress.advance(task),
    )
    return dict(zip(predicted, np.split(ranks, len(predicted)), strict=True))


@torch.inference_mode()
def predict_all(arm: Arm, bank: Half, questions: Sequence[Question], progress: Progress) -> Floats:
    """Predict what follows each question's context, as serving would: [m, 768].

    Windows that begin at the same row share one reading, because the GRU is causal.
    """
    gru = arm.model.folded_gru()
    by_start: dict[int, list[int]] = {}
    for index, question in enumerate(questions):
        by_start.setdefault(question.window(arm.window)[0], []).append(index)
    last_row = {start: max(questions[i].truth for i in rows) for start, rows in by_start.items()}
    starts = sorted(by_start, key=lambda start: last_row[start] - start)
    predicted = np.empty((len(questions), bank.shape[1]), dtype=np.float32)
    task = progress.add_task(f"{arm.name} reads windows", total=len(starts))
    for first in range(0, len(starts), _BATCH):
        batch = starts[first : first + _BATCH]
        longest = max(last_row[start] - start for start in batch)
        context = np.zeros((len(batch), longest, bank.shape[1]), dtype=np.float32)
        for row, start in enumerate(batch):
            context[row, : last_row[start] - start] = bank[start : last_row[start]]
        states, _ = gru(arm.model.input_norm(torch.from_numpy(context)))  # as the engine does
        pairs = [(row, index) for row, start in enumerate(batch) for index in by_start[start]]
        rows = [row for row, _ in pairs]
        at = [questions[index].truth - 1 - batch[row] for row, index in pairs]
        last = torch.from_numpy(context[rows, at])
        predicted[[index for _, index in pairs]] = predict_positions(
            arm.model, last, states[rows, at]
        ).numpy()
        progress.advance(task, len(batch))
    return predicted


def _system(
    name: str, predicted: Floats, truths: Floats, ranks: Ints, others: Ints, lengths: Ints
) -> System:
    cosines = (predicted * truths).sum(axis=1)
    pools = {
        str(pool): {f"hit@{k}": 100 * float(hit_chance(ranks, others, pool, k).mean()) for k in KS}
        for pool in POOLS
        if pool <= others.min()
    }
    within = {name_bucket(*bucket): _within(lengths, bucket) for bucket in BUCKETS}
    alone = rank_truths(predicted, truths, truths.astype(np.float16), [])
    return System(
        name=name,
        whole=dict(summarize(ranks, cosines)),
        targets_alone=dict(summarize(alone, cosines)),
        by_length={
            label: dict(summarize(ranks[mine], cosines[mine]))
            for label, mine in within.items()
            if mine.any()
        },
        by_pool=pools,
    )


def _differences(
    arms: Sequence[Arm], ranks: Mapping[str, Ints], questions: Sequence[Question]
) -> list[Difference]:
    every = np.ones(len(questions), dtype=bool)
    long = np.array([question.length > _LONG for question in questions])
    where = {"all contexts": every, f"contexts over {_LONG}": long}
    names = [arm.name for arm in arms]
    pairs = [(names[1], names[0])] if len(names) > 1 else []
    pairs += [(names[1], name) for name in names[2:]]
    # Against the baseline that is strongest on these very queries: that favours the baseline.
    strongest = min(BASELINES, key=lambda b: -int((ranks[b.name] <= HIT).sum()))
    pairs += [(name, strongest.name) for name in names[:2]]
    return [
        difference(of, less, label, ranks, questions, mine)
        for of, less in pairs
        for label, mine in where.items()
        if mine.any()
    ]


def difference(
    of: str,
    less: str,
    where: str,
    ranks: Mapping[str, Ints],
    questions: Sequence[Question],
    mine: NDArray[np.bool_],
) -> Difference:
    """Compare two systems' Hit@5 on the questions `mine`; the unit is the chain."""
    gains = (ranks[of] <= HIT).astype(float) - (ranks[less] <= HIT)
    chains = np.array([question.chain for question in questions])
    means = [float(gains[mine & (chains == chain)].mean()) for chain in np.unique(chains[mine])]
    clipped = [min(CLIP, max(-CLIP, mean)) for mean in means]
    low, high = mean_interval(clipped, -CLIP, CLIP)
    return Difference(
        of=of,
        less=less,
        where=where,
        chains=len(means),
        queries=int(mine.sum()),
        clipped=sum(abs(mean) > CLIP for mean in means),
        mean=100 * float(np.mean(clipped)),
        low=100 * low,
        high=100 * high,
    )


def _within(lengths: Ints, bucket: tuple[int, int]) -> NDArray[np.bool_]:
    return (lengths >= bucket[0]) & (lengths <= bucket[1])
