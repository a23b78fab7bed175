"""`turnout checkpoint`: what it shows, what it converts, what it refuses."""

import hashlib
from pathlib import Path

import pytest
import torch
from backend_samples import untrained
from typer.testing import CliRunner

from backends import checkpoint
from deploy.cli import app

RUN = CliRunner()


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "best_val_hit5.pt"
    torch.save({"model_state_dict": untrained().model.state_dict(), "epoch": 7}, path)
    return path


def test_an_original_converts_to_the_same_weights(original: Path) -> None:
    out = original.with_name("phase2.safetensors")
    result = RUN.invoke(app, ["checkpoint", "convert", str(original), str(out)])
    assert result.exit_code == 0
    assert hashlib.sha256(out.read_bytes()).hexdigest() in result.stdout
    assert "11,292,160 trainable" in result.stdout
    loaded = checkpoint.load(out)
    assert loaded.model.config.delta == "unit"
    for name, tensor in untrained().model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


def test_the_type_and_the_deltas_length_can_be_chosen(original: Path) -> None:
    out = original.with_name("phase2.safetensors")
    options = ["--delta", "free", "--dtype", "bfloat16"]
    result = RUN.invoke(app, ["checkpoint", "convert", str(original), str(out), *options])
    assert result.exit_code == 0
    assert out.stat().st_size <= 26_000_000
    assert checkpoint.load(out).model.config.delta == "free"


def test_what_is_in_a_file_is_shown(original: Path) -> None:
    shown = RUN.invoke(app, ["checkpoint", "show", str(original)]).stdout
    for words in ("memory.memory", "[2048, 768]", "12,865,024 in 31 tensors", "beside: epoch", "7"):
        assert words in shown


def test_a_file_that_the_model_does_not_take_is_shown_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"model_state_dict": {"wings": torch.zeros(2)}}, path)
    result = RUN.invoke(app, ["checkpoint", "show", str(path)])
    assert result.exit_code == 1
    assert "wings" in result.stdout
    assert "wings is unknown" in result.stderr


def test_a_conversion_of_what_cannot_be_read_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    result = RUN.invoke(app, ["checkpoint", "convert", str(tmp_path / "none.pt"), str(out)])
    assert result.exit_code == 1
    assert "cannot read the checkpoint" in result.stderr
    assert not out.exists()


def test_only_safetensors_is_written(original: Path) -> None:
    result = RUN.invoke(app, ["checkpoint", "convert", str(original), "out.pt"])
    assert result.exit_code == 2
    assert "must end in .safetensors" in result.stderr
