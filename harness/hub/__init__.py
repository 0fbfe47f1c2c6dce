"""The hubs that models and data come from and model cards go to. Nothing outside this package touches a hub's client.

The token comes from the environment (or, to publish, from a prompt), never from what a login left on the disk, and stands
in no message. Heavy imports stand inside the functions.
"""

from __future__ import annotations

from harness.hub.base import Change, Hub, Kind, Moved, RemoteFile, Repo, Uncertain, Unreachable
from harness.hub.huggingface import HuggingFace
from harness.hub.modelscope import ModelScope
from harness.hub.modelscope_branch import Branch

__all__ = [
    "Branch",
    "Change",
    "Hub",
    "HuggingFace",
    "Kind",
    "ModelScope",
    "Moved",
    "RemoteFile",
    "Repo",
    "Uncertain",
    "Unreachable",
    "hub",
]


def hub(source: str) -> Hub:
    """The hub of a name; `modelscope` or `huggingface`. Raises Refused when its client is not installed."""
    return ModelScope() if source == "modelscope" else HuggingFace()
