"""A training that is killed at the worst moments ends with the bytes of one that was left alone."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from kills import kill_when, run_to_the_end
from training_samples import make_corpus, make_sample

pytestmark = pytest.mark.faults

SETTINGS = {
    "context_length": 12, "batch": 16, "micro_batch": 8, "epochs": 3, "positions": 4,
    "negatives": 16, "learning_rate": 1e-3, "contrast": 1.0, "delta": "free", "zero_head": True,
    "validation_queries": 40, "validation_bank": 400,
}  # fmt: skip


def is_anew(path: Path, times: int) -> Callable[[], bool]:
    """Hold once `path` was seen written more than `times` times, an earlier run's included."""
    seen: set[int] = set()

    def moment() -> bool:
        with suppress(FileNotFoundError):
            seen.add(path.stat().st_mtime_ns)
        return len(seen) > times

    return moment


def test_a_training_killed_in_each_of_its_phases_ends_with_the_same_bytes(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", chains=120)
    make_sample(tmp_path / "sample.npz")
    log = tmp_path / "log"

    def words(out: Path) -> list[str]:
        settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
        files = [f"--corpus={tmp_path / 'corpus'}", f"--sample={tmp_path / 'sample.npz'}"]
        more = [f"--out={out}", "--threads=1", "--save-every=0"]
        return ["train", "--arm=phase1", *files, *more, *settings]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_to_the_end(words(whole), log)
    moments: dict[str, Callable[[], bool]] = {
        "when the first weights were kept and no state was": (
            (killed / "phase1.safetensors").exists
        ),
        "between two steps": is_anew(killed / "state.pt", 3),
        "while the state is written": is_anew(killed / "state.pt.partial", 1),
        "while it begins anew": is_anew(killed / "config.json", 1),
        "when an epoch's record was written": is_anew(killed / "history.json", 1),
    }
    for name, moment in moments.items():
        kill_when(moment, words(killed), log)
        print(f"killed {name}")
    run_to_the_end(words(killed), log)
    for name in ("phase1.safetensors", "config.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    records = [json.loads((out / "history.json").read_text()) for out in (whole, killed)]
    for record in (*records[0], *records[1]):
        del record["seconds"]
    assert records[0] == records[1]
    assert [record["epoch"] for record in records[0]] == [0, 1, 2, 3]
    states = [torch.load(out / "state.pt", weights_only=True) for out in (whole, killed)]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(states[1]["model"][name], tensor), name
    assert torch.equal(states[0]["randomness"], states[1]["randomness"])
