"""`make bench-backends`: our engines and servers beside plain torch and a rival, in one run.

The baseline is `torch.nn.GRU` as torch runs it (1,536 wide, 4 layers of 512, float32): the same
weights and as many threads. Contestants live in processes of their own and take turns, so that a
ratio is of neighbours in time. Nothing here passes or fails by a time: a figure that is not what
was asked says so, and the exit status is 0. It is 1 when a process dies or an answer is wrong.
"""

import argparse
import contextlib
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psutil
import torch
from bench_adapter import EAGER, SHIPPED, Spec, known_engines
from bench_figures import Section
from bench_output import draw, show, write_json
from bench_processes import ROOT, BenchError
from bench_run import FULL, QUICK, Effort, Run
from bench_wire import WireError
from rich.console import Console

RIVAL: Final = ROOT / ".venv-rival"
TABLE_WIDTH: Final = 120
"""Columns of text, where no terminal says how many there are."""


def main() -> int:
    """Run the bench as the command line says."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    began = time.monotonic()
    sections: list[Section] = []
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder:
        run = Run(
            eager=_spec(options, EAGER),
            specs=tuple(_spec(options, name) for name in _engines(options)),
            rival=options.rival if (options.rival / "bin" / "mlserver").exists() else None,
            effort=_effort(options),
            logs=Path(folder),
        )
        facts = _facts(options)
        console.print(" · ".join(f"{name} {value}" for name, value in facts.items()))
        if run.rival is None:
            console.print(f"no rival at {options.rival}: `make bench-rival-env` installs it")
        try:
            with contextlib.closing(run.sections()) as measured:
                for section in measured:
                    show(console, section)
                    sections.append(section)
        except (BenchError, WireError) as error:
            console.print(f"the bench cannot go on: {error}", style="red")
            return 1
        except KeyboardInterrupt:
            console.print("stopped")
            return 130
    facts["seconds"] = round(time.monotonic() - began)
    console.print(f"all of it took {facts['seconds']} s")
    if options.json:
        write_json(options.json, facts, sections)
    if options.picture:
        draw(options.picture, sections)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-backends", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sanity run: too short to believe")
    parser.add_argument("--engines", help="which of ours, as engine,...; without it, all there are")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each engine")
    parser.add_argument("--seed", type=int, default=0, help="of the untrained weights")
    parser.add_argument("--checkpoint", type=Path, help="weights (without it, Phase 2's)")
    parser.add_argument("--contexts", type=int, help="read from scratch for the agreement")
    parser.add_argument("--rival", type=Path, default=RIVAL, help="the rival's environment")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--picture", type=Path, help="draw the ratios: .svg or .png")
    return parser.parse_args()


def _engines(options: argparse.Namespace) -> tuple[str, ...]:
    return tuple(options.engines.split(",")) if options.engines else known_engines()


def _spec(options: argparse.Namespace, engine: str) -> Spec:
    weights = options.checkpoint or SHIPPED
    checkpoint = str(weights.resolve()) if weights.exists() or options.checkpoint else None
    return Spec(engine, options.threads, options.seed, checkpoint)


def _effort(options: argparse.Namespace) -> Effort:
    effort = QUICK if options.quick else FULL
    return replace(effort, scratch=options.contexts) if options.contexts else effort


def _facts(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "threads": options.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "weights": _spec(options, EAGER).checkpoint or f"untrained, seed {options.seed}",
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


if __name__ == "__main__":
    sys.exit(main())
