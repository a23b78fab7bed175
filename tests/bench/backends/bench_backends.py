"""`make bench-backends`: our engines and servers beside plain torch and a rival, in one run.

The baseline is `torch.nn.GRU` as torch runs it (1,536 wide, 4 layers of 512, float32): the same
weights and as many threads. Contestants live in processes of their own and take turns, so that a
ratio is of neighbours in time. Nothing here passes or fails by a time: a figure that is not what
was asked says so, and the exit status is 0. It is 1 when a process dies or an answer is wrong.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from bench_adapter import EAGER, FLOAT32, SHIPPED, Spec, known_engines
from bench_process import ROOT
from bench_report import add_options, machine, report
from bench_run import FULL, QUICK, SECTIONS, Effort, Run

from backends.engine.port import Precision

RIVAL: Final = ROOT / ".venv-rival"


def main() -> int:
    """Run the bench as the command line says."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder:
        run = Run(
            eager=_spec(options, EAGER),
            specs=tuple(_spec(options, *one) for one in _engines(options)),
            rival=options.rival if (options.rival / "bin" / "mlserver").exists() else None,
            effort=_effort(options),
            logs=Path(folder),
            only=options.only,
        )
        remarks = (
            (f"no rival at {options.rival}: `make bench-rival-env` installs it",)
            if run.rival is None
            else ()
        )
        return report(run.sections(), options, _facts(options), remarks)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-backends", description=__doc__)
    add_options(parser)
    parser.add_argument(
        "--engines",
        help="which of ours, as torch,compiled,compiled:bfloat16; without it, all there are",
    )
    parser.add_argument(
        "--only", type=_numbers, default=SECTIONS, help="which sections, as 1,2,7; without it, all"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each engine")
    parser.add_argument("--seed", type=int, default=0, help="of the untrained weights")
    parser.add_argument("--checkpoint", type=Path, help="weights (without it, Phase 2's)")
    parser.add_argument("--contexts", type=int, help="read from scratch for the agreement")
    parser.add_argument("--rival", type=Path, default=RIVAL, help="the rival's environment")
    return parser.parse_args()


def _numbers(text: str) -> frozenset[int]:
    """Read section numbers. Raises ArgumentTypeError, which the parser prints."""
    try:
        numbers = frozenset(int(part) for part in text.split(","))
    except ValueError:
        numbers = frozenset()
    if not numbers or not numbers <= SECTIONS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not some of {', '.join(map(str, sorted(SECTIONS)))}, separated by commas"
        )
    return numbers


def _engines(options: argparse.Namespace) -> tuple[tuple[str, Precision], ...]:
    if not options.engines:
        return known_engines()
    known = {f"{name}:{precision}": (name, precision) for name, precision in known_engines()}
    named = [name if ":" in name else f"{name}:{FLOAT32}" for name in options.engines.split(",")]
    strange = [name for name in named if name not in known]
    if strange:
        sys.exit(f"no engine here is {', '.join(strange)}; there are {', '.join(known)}")
    return tuple(known[name] for name in named)


def _spec(options: argparse.Namespace, engine: str, precision: Precision = FLOAT32) -> Spec:
    weights = options.checkpoint or SHIPPED
    checkpoint = str(weights.resolve()) if weights.exists() or options.checkpoint else None
    return Spec(engine, options.threads, options.seed, checkpoint, precision)


def _effort(options: argparse.Namespace) -> Effort:
    effort = QUICK if options.quick else FULL
    return replace(effort, scratch=options.contexts) if options.contexts else effort


def _facts(options: argparse.Namespace) -> dict[str, Any]:
    return {
        **machine(),
        "threads": options.threads,
        "torch": torch.__version__,
        "weights": _spec(options, EAGER).checkpoint or f"untrained, seed {options.seed}",
    }


if __name__ == "__main__":
    sys.exit(main())
