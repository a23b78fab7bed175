"""Where state lies on this machine, for `turnout up` and for a gateway alone."""

import os
from pathlib import Path
from typing import Final

STATE_DIR: Final = "TURNOUT_STATE_DIR"
GATEWAY: Final = "gateway"


def default_state_dir() -> Path:
    """Return TURNOUT_STATE_DIR, or else our folder where the XDG base directories put state."""
    if chosen := os.environ.get(STATE_DIR):
        return Path(chosen)
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:  # a user without a home: a container's, with a number and no name
        return Path(".turnout")
    return Path(base) / "turnout"


def gateway_state_dir() -> Path:
    """Return the gateway's folder in it."""
    return default_state_dir() / GATEWAY
