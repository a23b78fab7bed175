"""Which HTTP client a gateway should reach its backends with: three libraries' and our own.

`make bench-clients`. Each runs in processes of its own, on one core, against a backend on another;
in turns.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench_figures import Figure, Section
from bench_process import ROOT, BenchError
from bench_report import add_options, machine, report
from bench_start import GATEWAY_CORE, HERE, OTHERS, Backend, pinned
from bench_statistics import median, rounds

OURS: Final = "turnout"
NAMES: Final = ("pyreqwest", "aiohttp", "httpx2", OURS)
UNITS: Final = {
    "30 KB, 16 connections": "/s",
    "CPU of one of those": "us",
    "30 KB, one connection": "ms",
    "1.5 MB, one connection": "ms",
    "1.5 MB as a stream of 64 KiB": "ms",
    "memory that it took": "MB",
}
LIMIT_S: Final = 120


@dataclass(frozen=True, slots=True)
class Clients:
    """`python` is the interpreter that has the clients; logs and keys go to `folder`."""

    python: Path
    folder: Path
    seconds: float
    rounds: int

    def sections(self) -> Generator[Section]:
        """Measure all clients. Raises BenchError when a process fails."""
        certificate, key = authority(self.folder)
        plain = Backend("backend", self.folder, unix=self.folder / "socket")
        tls = Backend("backend-tls", self.folder, tls=(certificate, key))
        with plain, tls:
            common = (
                "--port", str(plain.port), "--tls-port", str(tls.port), "--unix", str(plain.unix),
                "--ca", str(self.folder / "ca.pem"),
            )  # fmt: skip
            yield self._fast(common)
            yield self._able(common)

    def _fast(self, common: Sequence[str]) -> Section:
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for order in rounds(NAMES, self.rounds):
            for name in order:
                told = self._ask(name, "fast", "--seconds", str(self.seconds), *common)
                for what in UNITS:
                    found[name][what].append(told[what])
        figures = [
            Figure(name, what, median(found[name][what]), unit)
            for what, unit in UNITS.items()
            for name in NAMES
        ]
        return Section(1, "Clients on one core, the backend on another", tuple(figures))

    def _able(self, common: Sequence[str]) -> Section:
        words: dict[str, list[str]] = defaultdict(list)
        for name in NAMES:
            told = self._ask(name, "able", "--churn-seconds", str(5 * self.seconds), *common)
            after = {f"after cancels: {what}": value for what, value in told["churn"].items()}
            for what, word in {**told["able"], **after}.items():
                words[what].append(f"{name} {word}")
        notes = (f"{what}: {', '.join(said)}" for what, said in words.items())
        return Section(2, "What they can do, and 30 workers cancelling at random", (), tuple(notes))

    def _ask(self, name: str, what: str, *options: str) -> dict[str, Any]:
        python = sys.executable if name == OURS else str(self.python)
        command = pinned(
            GATEWAY_CORE,
            (python, "-P", str(HERE / "bench_client_child.py"), name, what, *options),
        )
        done = subprocess.run(
            command,
            env={"PYTHONPATH": f"{HERE}:{ROOT}", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"{name} died: {done.stderr[-600:]}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def authority(folder: Path) -> tuple[Path, Path]:
    """Make a certificate authority, `ca.pem`, and a certificate of localhost with its key.

    With the command `openssl`: the bench needs no library for it.
    """
    ca, ca_key = folder / "ca.pem", folder / "ca-key.pem"
    leaf, key = folder / "localhost.pem", folder / "localhost-key.pem"
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    for command in (
        ("-subj", "/CN=bench", *new, "-keyout", str(ca_key), "-out", str(ca)),
        (
            *name, *new, "-addext", "basicConstraints=critical,CA:false", "-CA", str(ca),
            "-CAkey", str(ca_key), "-keyout", str(key), "-out", str(leaf),
        ),
    ):  # fmt: skip
        subprocess.run(("openssl", "req", "-x509", *command), check=True, capture_output=True)
    return leaf, key


def main() -> int:
    """Run the bench as the command line says."""
    parser = argparse.ArgumentParser(prog="make bench-clients", description=__doc__)
    add_options(parser)
    parser.add_argument("--others", type=Path, default=OTHERS, help="the clients' environment")
    options = parser.parse_args()
    python = options.others / "bin" / "python"
    if not python.exists():
        sys.exit(f"no clients at {options.others}: `make bench-gateway-env` installs them")
    with tempfile.TemporaryDirectory(prefix="turnout-bench-") as folder:
        clients = (
            Clients(python, Path(folder), seconds=0.3, rounds=1)
            if options.quick
            else Clients(python, Path(folder), seconds=1.0, rounds=5)
        )
        return report(clients.sections(), options, machine())


if __name__ == "__main__":
    sys.exit(main())
