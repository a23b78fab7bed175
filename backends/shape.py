"""The model's fixed sizes, for whoever needs them without torch."""

from typing import Final

from backends.protocol import DIMENSION

HIDDEN: Final = 512
LAYERS: Final = 4
SLOTS: Final = 2048
HEAD: Final = 1024

__all__ = ["DIMENSION", "HEAD", "HIDDEN", "LAYERS", "SLOTS"]
