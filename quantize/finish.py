"""From files to a finished checkpoint: verified, hashed, described by a manifest, renamed. One thread does this for one
cell while the next is built; a folder stands under its final name whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.util.errors import Fault, Refused
from harness.util.files import Locked, files_sha256, lock, new_folder

log = logging.getLogger("quantize")

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1
PATIENCE = 8.0
"""Seconds that a build which is told to end waits for the cell being finished. Less than the 15 s that the harness gives
a process before it kills it; a folder that is left behind then is removed by the next build."""


class Clock:
    """Where a cell's time went: seconds by stage."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's time to a stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - start, 3)

    def total(self) -> float:
        """Seconds since the cell was begun."""
        return round(time.monotonic() - self.started, 3)


class GivenUp(BaseException):
    """The build is ending: a cell that is being finished is left, its folder removed on the way out."""


class Finisher:
    """A thread for the cell that is being finished; never more than one, so at most one cell waits in memory.

    As a context manager it waits for that cell when its block ends well. When it ends by an exception (Ctrl-C, SIGTERM)
    the cell is given up: its work stops at the next `go_on`.
    """

    def __init__(self) -> None:
        self._given_up = threading.Event()
        # An event and not the thread's join: a join that a signal interrupts takes the thread for ended (Python 3.11).
        self._idle = threading.Event()
        self._idle.set()

    def __enter__(self) -> Finisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        else:
            self._given_up.set()
            self._idle.wait(PATIENCE)

    def wait(self) -> None:
        """Return when no cell is being finished."""
        self._idle.wait()

    def start(self, work: Callable[[], None]) -> None:
        """Do `work`, which raises nothing but GivenUp, in the thread. Call `wait` before."""

        def run() -> None:
            with contextlib.suppress(GivenUp):
                try:
                    work()
                finally:
                    self._idle.set()

        # A daemon: a build that was told to end does not hang on a write that does not return.
        thread = threading.Thread(target=run, name="finishing", daemon=True)
        self._idle.clear()
        try:
            thread.start()
        except RuntimeError:  # no more threads on this machine
            self._idle.set()
            raise

    def go_on(self) -> None:
        """Called by the work between its steps. Raises GivenUp when there is no more use in them."""
        if self._given_up.is_set():
            raise GivenUp


# -- what a manifest says ----------------------------------------------------------------------------------------------


def versions() -> dict[str, str | None]:
    """Releases that can change what is built; None for one that is absent."""
    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in ("llmcompressor", "transformers", "torch", "compressed-tensors", "safetensors", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def peak_bytes() -> dict[str, int | None]:
    """The most memory that this process has held so far: on the host, and on the accelerator (null without one)."""
    device = None
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        device = int(torch.cuda.max_memory_allocated())
    return {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "device": device}


def hashes(folder: Path) -> tuple[dict[str, str], str]:
    """SHA-256 of each file by name, and `quantized_sha256`, side by side."""
    with ThreadPoolExecutor(1) as pool:
        content = pool.submit(quantized_sha256, folder)
        return files_sha256(folder, skip=(MANIFEST,)), content.result()


def quantized_sha256(folder: Path) -> str:
    """SHA-256 over the packed weights, scales and zero points of a checkpoint; "" when it has none."""
    from safetensors import safe_open

    total, any_packed = hashlib.sha256(), False
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            header = file.keys()
        wanted = sorted(k for k in header if re.search(r"\.weight_(packed|scale|zero_point)$", k))
        any_packed = any_packed or bool(wanted)
        with path.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            table = json.loads(raw.read(size))
            for key in wanted:
                begin, end = table[key]["data_offsets"]
                raw.seek(8 + size + begin)
                total.update(key.encode())
                total.update(raw.read(end - begin))
    return total.hexdigest() if any_packed else ""


# -- folders that are whole or absent ----------------------------------------------------------------------------------


@contextlib.contextmanager
def held(output: Path) -> Iterator[None]:
    """Hold the output's lock and clear what builds that were killed left beside it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(output.parent / f".{output.name}.lock"))
        except OSError as error:
            raise Refused(Fault(f"output {output}", f"its parent folder cannot be written ({error.strerror})")) from None
        except Locked as error:
            raise Refused(
                Fault(f"output {output}", f"is being built by process {error.holder}", "wait for it, or give another folder")
            ) from None
        stale = re.compile(rf"\.{re.escape(output.name)}\.[a-z0-9_]{{8}}")
        for path in output.parent.iterdir():
            if path.is_dir() and stale.fullmatch(path.name):
                log.info("removing %s, left by a build that was killed", path)
                shutil.rmtree(path, ignore_errors=True)
        yield


@contextlib.contextmanager
def replaced(output: Path, force: bool) -> Iterator[Path]:
    """A new folder that becomes `output` when the block ends well; with `force` an old one goes at that moment."""
    old: Path | None = None
    try:
        with new_folder(output) as folder:
            yield folder
            if force and output.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent)) / "old"
                output.rename(old)
    except BaseException:
        if old is not None and old.exists() and not output.exists():
            old.rename(output)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old.parent, ignore_errors=True)
