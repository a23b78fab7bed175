"""The build's hook: compiles gru.c beside itself, once for each kind of processor, and what hashes.

Without a C compiler the package is built without the compiled engine, and says so: the torch
engine, three times slower, then does its work, and vectors are hashed by SHA-256.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-psabi")
X86_VARIANTS = {
    "x86-64-v4-bf16": ("-march=x86-64-v4", "-mavx512bf16"),
    "x86-64-v4": ("-march=x86-64-v4",),
    "x86-64-v3": ("-march=x86-64-v3",),
}


class NativeBuildHook(BuildHookInterface):  # type: ignore[misc]  # hatchling is there in a build
    """Adds native/gru-VARIANT.so to the package."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile what this machine's compiler can; called before files are collected."""
        del version
        folder = Path(self.root) / "backends" / "engine" / "native"
        hashing = Path(self.root) / "backends" / "native" / "fingerprint.c"
        compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or ""]
        if not compiler[0]:
            self.app.display_warning("no C compiler (cc): built without the compiled engine")
            return
        variants: dict[str, tuple[str, ...]] = {"baseline": ()}
        if platform.machine() in {"x86_64", "AMD64"}:
            variants |= X86_VARIANTS
        for variant, flags in variants.items():
            self._compile([*compiler, *FLAGS, *flags], folder / "gru.c", f"gru-{variant}.so")
        self._compile([*compiler, *FLAGS], hashing, "fingerprint.so")
        build_data["artifacts"] += ["backends/engine/native/gru-*.so", "backends/native/*.so"]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"

    def _compile(self, command: list[str], source: Path, name: str) -> None:
        partial = source.with_name(f"{name}.partial")
        done = subprocess.run(  # noqa: S603 - the builder's own compiler
            [*command, "-o", str(partial), str(source), "-lm"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            self.app.display_warning(f"{name} was not built: {done.stderr.strip()[-500:]}")
            return
        partial.replace(
            source.with_name(name)
        )  # whole or not at all, for a server that runs meanwhile


def _platform() -> str:
    """Name the platform as wheels do; the libraries use nothing but libc and libm."""
    return f"{sys.platform}_{platform.machine()}"
