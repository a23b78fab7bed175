"""A training's history: one record an epoch, as JSON and as a plot."""

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from backends.training.baselines import WATCHED
from backends.training.ranks import KS


def write_history(folder: Path, arm: str, history: Sequence[dict[str, float]]) -> None:
    """Write `history.json` and `history.svg` into the folder."""
    (folder / "history.json").write_text(json.dumps(list(history), indent=1) + "\n")
    epochs = [record["epoch"] for record in history]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    loss, hits = figure.subplots(1, 2)
    loss.plot(epochs, [record["loss"] for record in history], marker=".")
    loss.set(title=f"{arm}: training loss", xlabel="epoch")
    for k in KS:
        (line,) = hits.plot(epochs, [r[f"hit@{k}"] for r in history], marker=".", label=f"Hit@{k}")
        hits.axhline(_best_baseline(history[-1], k), color=line.get_color(), ls=":", lw=1)
    hits.set(title="validation, % (dotted: the best baseline)", xlabel="epoch", ylim=(0, None))
    hits.legend(frameon=False)
    for axes in (loss, hits):
        axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": arm}):  # the same figures give the same bytes
        figure.savefig(folder / "history.svg", metadata={"Date": None})


def _best_baseline(record: dict[str, float], k: int) -> float:
    # A record of an older training may lack some of them.
    return max(record.get(f"{baseline.short}_hit@{k}", 0.0) for baseline in WATCHED)
