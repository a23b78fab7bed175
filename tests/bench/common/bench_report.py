"""What every bench does with its sections: show each as it comes, then write and draw them all."""

import argparse
import contextlib
import platform
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import psutil
from bench_figures import Section
from bench_output import draw, show, write_json
from bench_process import BenchError
from bench_wire import WireError
from rich.console import Console

TABLE_WIDTH: Final = 120
"""Columns of text, where no terminal says how many there are."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `report` reads."""
    parser.add_argument("--quick", action="store_true", help="a sanity run: too short to believe")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--picture", type=Path, help="draw the ratios: .svg or .png")


def machine() -> dict[str, Any]:
    """Say what the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "python": platform.python_version(),
    }


def report(
    measured: Generator[Section],
    options: argparse.Namespace,
    facts: dict[str, Any],
    remarks: tuple[str, ...] = (),
    times: str = "times as fast",
) -> int:
    """Show, write and draw what is measured; give the exit status. `times` says what a ratio is.

    1 when a process fails, whatever the figures are otherwise.
    """
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)
    began = time.monotonic()
    sections: list[Section] = []
    for line in (" · ".join(f"{name} {value}" for name, value in facts.items()), *remarks):
        console.print(line)
    try:
        with contextlib.closing(measured):
            for section in measured:
                show(console, section)
                sections.append(section)
    except (BenchError, WireError) as error:
        console.print(f"the bench cannot go on: {error}", style="red")
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    seconds = round(time.monotonic() - began)
    console.print(f"all of it took {seconds} s")
    if options.json:
        write_json(options.json, {**facts, "seconds": seconds}, sections)
    if options.picture:
        draw(options.picture, sections, times)
    return 0


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
