"""Faults of other projects that the build has to live with, each with the day it can go.

Call `prepare()` before torch is imported and `patch()` after llm-compressor is.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def prepare() -> None:
    """Set what has to stand before torch is imported: thread waiting, offline tokenizers, torchvision's operators."""
    # Threads that spin at a barrier cost a loaded machine forty times the work (measured on two shared cores: a
    # 77x256x512 product took 13 ms spinning, 0.5 ms sleeping). GNU OpenMP reads this once, when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Tokenizing happens in one thread here; without this llm-compressor warns about it on every run.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Started by hand, the folder with the torchvision shim is not on PYTHONPATH: load it by path. It looks by itself
    # whether it is there already. Can go with the shim.
    shim = Path(__file__).resolve().parent.parent / "harness" / "engine" / "shims" / "sitecustomize.py"
    spec = importlib.util.spec_from_file_location("quantize_shim", shim)
    if shim.is_file() and spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def trim() -> None:
    """Import transformers without scikit-learn, pandas and scipy: a quarter of the start-up, for one function of
    speculative decoding (roc_curve in generation/candidate_generator.py) and one of object detection, unused here.

    Can go when transformers imports them where they are used.
    """
    import transformers.utils
    from transformers.utils import import_utils

    for module in (import_utils, transformers.utils):
        for name in ("is_sklearn_available", "is_scipy_available"):
            setattr(module, name, _no)


def _no() -> bool:
    return False


def patch() -> None:
    """Meet llm-compressor's faults once it is imported. Safe to call twice."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    # AWQ pins its cached activations in host memory without asking whether there is an accelerator to copy them to;
    # without one, pin_memory raises (llm-compressor 0.13.0 to 0.14.0.1, modifiers/transform/awq/base.py,
    # _apply_smoothing). Can go when IntermediatesCache._pin_intermediate asks torch.accelerator.is_available().
    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda self, batch_index, input_names=None: None
