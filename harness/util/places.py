"""Folders, from the one that a command is run in, where things are looked for and put by default."""

from pathlib import Path

MODELS = Path("models")
"""Checkpoints, as OWNER/NAME."""
DATA = Path("data")
"""Data sets, as OWNER/NAME."""
