"""Train one arm: read windows, supervise their positions, step, validate, keep the best.

The order of everything follows from the recipe's seed, the epoch and the step, so a training that
was killed goes on from its last state as if nothing had happened. In the folder: `state.pt` to go
on from; of the best epoch so far `ARM.safetensors`; `config.json` and the history.
"""

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress, TaskID

from backends import checkpoint
from backends.model import MemoryAugmentedGRU
from backends.training.baselines import WATCHED
from backends.training.begin import hold_matrices, new_model, write_memory
from backends.training.corpus import Corpus
from backends.training.history import write_history
from backends.training.objective import loss_of
from backends.training.ranks import KS, Floats, Ints
from backends.training.recipe import Recipe, rate_at
from backends.training.recurrence import predict_positions, read_window
from backends.training.sides import Sides
from backends.training.state import Position, load_state, save_state
from backends.training.validation import Validation, context_of, prepare, validate
from backends.training.windows import Window, cut_windows, pick_positions, shuffle_batches

_SAMPLED, _SAMPLED_LENGTH = 512, 64
"""Windows, and vectors in each, that the starting weights are fitted to."""


@dataclass(slots=True)
class _Training:
    recipe: Recipe
    corpus: Corpus
    sides: Sides
    folder: Path
    model: MemoryAugmentedGRU
    optimizer: torch.optim.AdamW
    validation: Validation
    train_rows: Ints
    position: Position
    bar: Progress
    task: TaskID
    save_every_s: float

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.recipe.precision == "bfloat16" else torch.float32


def train(
    corpus: Corpus,
    sides: Sides,
    recipe: Recipe,
    folder: Path,
    progress: Progress,
    save_every_s: float = 60.0,
) -> Position:
    """Train until the epochs are over or patience is; return where it ended.

    The state is saved every `save_every_s` seconds and after each epoch.

    Raises state.ResumeError when the folder holds a training of another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = new_model(recipe, _sample(corpus, sides, recipe))
    if recipe.trainable == "biases":
        hold_matrices(model)
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    position = load_state(folder, model, optimizer, recipe) or Position()
    (folder / "config.json").write_text(recipe.model_dump_json(indent=1) + "\n")
    rows = np.concatenate([np.arange(*span) for span in sides.train])
    run = _Training(
        recipe, corpus, sides, folder, model, optimizer,
        prepare(corpus, list(sides.validation), rows, recipe), rows,
        position, progress, progress.add_task(recipe.arm), save_every_s,
    )  # fmt: skip
    if not position.history:
        _judge(run, _first_loss(run))
    while position.epoch < recipe.epochs and position.worse < recipe.patience:
        _run_epoch(run)
    return position


def _sample(corpus: Corpus, sides: Sides, recipe: Recipe) -> Floats:
    """Choose windows [m, n, 768] of the training chains for the weights to start from."""
    rng = np.random.default_rng([recipe.seed, 4])
    length = min(recipe.context_length, _SAMPLED_LENGTH)
    starts = [start for first, end in sides.train for start in range(first, end - length, length)]
    chosen = np.sort(rng.choice(starts, min(_SAMPLED, len(starts)), replace=False))
    windows = [corpus.vectors[start : start + length] for start in chosen]
    return np.stack(windows).astype(np.float32)


def _run_epoch(run: _Training) -> None:
    recipe, position = run.recipe, run.position
    steps = _steps(run)
    per_epoch = len(steps)
    run.bar.reset(run.task, total=per_epoch, completed=position.step)
    saved = began = time.monotonic()
    newest: deque[float] = deque(maxlen=50)
    for step in range(position.step, per_epoch):
        for group in run.optimizer.param_groups:
            group["lr"] = rate_at(position.epoch * per_epoch + step, per_epoch, recipe)
        newest.append(_step(run, steps[step], step))
        position.step, position.loss = step + 1, position.loss + newest[-1]
        last = position.history[-1]["hit@5"] if position.history else 0.0
        words = f"epoch {position.epoch + 1} loss {np.mean(newest):.4f} Hit@5 {last:.1f}"
        run.bar.update(run.task, advance=1, description=f"{recipe.arm} {words}")
        if time.monotonic() - saved >= run.save_every_s:
            position.seconds += time.monotonic() - began
            saved = began = time.monotonic()
            save_state(run.folder, run.model, run.optimizer, position, recipe)
    _end_epoch(run, position.loss / per_epoch, began)


def _steps(run: _Training) -> list[list[list[Window]]]:
    """Return this epoch's steps: each is the micro-batches whose gradients it adds up."""
    recipe, epoch = run.recipe, run.position.epoch
    rng = np.random.default_rng([recipe.seed, 2, epoch])
    windows = cut_windows(
        run.sides.train,
        recipe.context_length,
        recipe.overlap,
        rng if recipe.random_starts else None,
    )
    micro = min(recipe.micro_batch, recipe.batch)
    batches = shuffle_batches(windows, micro, rng)
    together = max(1, recipe.batch // micro)
    return [batches[first : first + together] for first in range(0, len(batches), together)]


def _step(run: _Training, batches: list[list[Window]], step: int) -> float:
    rng = np.random.default_rng([run.recipe.seed, 3, run.position.epoch, step])
    run.model.train()
    run.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for windows in batches:
        whole, states = _loss(run, windows, rng)
        loss = whole / len(batches)
        torch.autograd.backward(loss)
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.clip)
    run.optimizer.step()
    if run.recipe.memory_write:
        write_memory(run.model, states)
    return total


def _loss(
    run: _Training, windows: list[Window], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a micro-batch's loss, and the states [m, 512] that it supervised."""
    recipe, vectors = run.recipe, run.corpus.vectors
    context = context_of(run.corpus, windows)
    states = read_window(run.model, context, run.dtype)
    at = pick_positions([window.length for window in windows], recipe.positions, rng)
    rows, positions = torch.from_numpy(at[0]), torch.from_numpy(at[1])
    chosen = states[rows, positions]
    predicted = predict_positions(run.model, context[rows, positions], chosen, run.dtype)
    begins = np.array([window.start for window in windows])[at[0]]
    truths = begins + at[1] + 1
    far = rng.choice(run.train_rows, recipe.negatives)
    near = _near(run.corpus, windows, recipe.near_negatives, rng)
    candidates, place = np.unique(np.concatenate([truths, far, near]), return_inverse=True)
    inside = (candidates >= begins[:, None]) & (candidates < truths[:, None])
    loss = loss_of(
        predicted,
        torch.from_numpy(vectors[candidates].astype(np.float32)),
        torch.from_numpy(place[: len(truths)]),
        torch.from_numpy(~inside),
        recipe,
        run.dtype,
    )
    return loss, chosen.detach()


def _near(corpus: Corpus, windows: list[Window], count: int, rng: np.random.Generator) -> Ints:
    """Choose `count` rows at random from the chains of `windows`, as many from each window's."""
    chains = np.searchsorted(corpus.starts, [window.start for window in windows], side="right")
    each = rng.integers(
        corpus.starts[chains - 1], corpus.starts[chains], (count // len(windows), len(windows))
    )
    return each.ravel()


@torch.no_grad()
def _first_loss(run: _Training) -> float:
    """Return what a micro-batch's loss is before the first step."""
    rng = np.random.default_rng([run.recipe.seed, 3, 0, 0])
    return float(_loss(run, _steps(run)[0][0], rng)[0])


def _end_epoch(run: _Training, loss: float, began: float) -> None:
    position = run.position
    position.epoch, position.step, position.loss = position.epoch + 1, 0, 0.0
    position.seconds += time.monotonic() - began
    _judge(run, loss)


def _judge(run: _Training, loss: float) -> None:
    """Validate the weights as they are; keep them if they are the best; record and save.

    The start, epoch 0, stands in the record for comparison and is never kept: what ships was
    trained, and the card says what that added.
    """
    position, recipe = run.position, run.recipe
    figures = validate(run.model, run.corpus, run.validation, run.dtype)
    record = {"epoch": position.epoch, "loss": loss, "seconds": round(position.seconds), **figures}
    position.history.append(record)
    if position.epoch > 0 and figures["hit@5"] > position.best:
        position.best, position.worse = figures["hit@5"], 0
        _keep(run)
    elif position.epoch > 0:
        position.worse += 1
    write_history(run.folder, recipe.arm, position.history)
    save_state(run.folder, run.model, run.optimizer, position, recipe)
    run.bar.console.print(_say_epoch(record), highlight=False)


def _say_epoch(record: dict[str, float]) -> str:
    def hits(prefix: str = "") -> str:
        return "/".join(f"{record[f'{prefix}hit@{k}']:.2f}" for k in KS)

    beside = ", ".join(f"{hits(f'{b.short}_')} {b.name}" for b in WATCHED)
    return (
        f"epoch {record['epoch']}: loss {record['loss']:.4f}, validation Hit@1/5/10 {hits()} %, "
        f"beside {beside}; {record['seconds']} s"
    )


def _keep(run: _Training) -> None:
    """Write the weights as they ship, in bfloat16: whole or not at all."""
    path = run.folder / f"{run.recipe.arm}.safetensors"
    partial = path.with_name(f"{path.name}.partial")
    checkpoint.save(run.model, partial, trained=True, dtype=torch.bfloat16)
    partial.replace(path)
