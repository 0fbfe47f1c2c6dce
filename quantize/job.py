"""One job: the source is loaded once, calibration data is prepared once, searches are shared, cells fail alone.

What is shared and why that is right. llm-compressor's AWQ always searches with a min-max range, whatever observer
the recipe names, and rounds nothing before a layer's outputs go on to the next; so cells that differ only in the
observer have the same search, to the bit, and do it once. The layers' inputs differ between other cells by no more
than BF16 rounding of the smoothed weights, but the forward pass that makes them is a sixtieth of a search: it is
repeated, so that a cell of a grid and the same cell built alone are equal to the byte.

A cell is built here (search, rounding, packing) and finished in a thread (writing, verifying, hashing; finish.py)
while the next is built.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.checkpoints.headers import read_config
from harness.checkpoints.verify import verify
from harness.families import family_of
from harness.util.errors import CellFailed, Fault, OfSource, Refused
from harness.util.files import digest, folder_sha256, joined_sha256, write_json
from quantize import calibration, upstream
from quantize.finish import MANIFEST, MANIFEST_VERSION, Clock, Finisher, hashes, held, peak_bytes, replaced, versions
from quantize.fit import linears, plan_recipe, resolve_ignore
from quantize.methods.base import Written
from quantize.recipe import Calibration, Event, Job, Product

log = logging.getLogger("quantize")


def build(job: Job, report: Callable[[Event], None]) -> int:
    """Build every cell; return how many failed. Raises Refused before anything is written."""
    return _Builder(job, report).run()


class _Builder:
    def __init__(self, job: Job, report: Callable[[Event], None]):
        with contextlib.suppress(Refused):  # a source that is none is told with all that is wrong
            family = family_of(read_config(job.source))
            resolved = [c.model_copy(update={"recipe": c.recipe.resolved(family)}) for c in job.cells]
            job = job.model_copy(update={"cells": resolved})
        self.job = job
        self.report = report
        self.clock = Clock()
        self.speaking = threading.Lock()
        self.finisher = Finisher()
        self.failed: list[str] = []
        self.searches: dict[str, Any] = {}
        self.contents: dict[str, str] = {}
        self.source: Any = None
        self.prepared: Any = None
        self.source_sha256: Future[str] | None = None
        self.sick: str | None = None

    def run(self) -> int:
        self.refuse_what_cannot_work()
        with contextlib.ExitStack() as stack:
            for cell in self.job.cells:
                stack.enter_context(held(cell.output))
            self.load()
            stack.enter_context(self.finisher)
            order = self.in_order()
            for index, cell in enumerate(order):
                self.one(cell, index, len(order))
                self.let_go(order[index + 1 :])
        return len(self.failed)

    def say(self, message: str, kind: Any = "progress", **more: Any) -> None:
        """Report an event; the thread that finishes cells does so too."""
        with self.speaking:
            self.report(Event(kind=kind, message=message, seconds=round(self.clock.total(), 2), **more))

    # -- before any work -----------------------------------------------------------------------------------------------

    def refuse_what_cannot_work(self) -> None:
        faults = [
            Fault(f"cell {c.name}: output {c.output}", "exists already", "another folder, or force: true")
            for c in self.job.cells
            if c.output.exists() and not self.job.force
        ]
        for cell in self.job.cells:
            found, _ = plan_recipe(self.job.source, cell.recipe, None, interpreter=Path(sys.executable))
            # A fault of the source is every cell's: said once.
            faults += [f if isinstance(f, OfSource) else f.at(f"cell {cell.name}: ") for f in found]
        Refused.if_any(faults)

    def in_order(self) -> list[Product]:
        """The job's order, with cells that share a search moved up to the first of them."""
        keys = [digest(key) if (key := c.recipe.search_key()) else c.name for c in self.job.cells]
        return [cell for _, cell in sorted(zip(keys, self.job.cells, strict=True), key=lambda p: keys.index(p[0]))]

    def let_go(self, still: list[Product]) -> None:
        """Free what the cells that are still to come do not need."""
        needed = {digest(key) for c in still if (key := c.recipe.search_key())}
        self.searches = {key: value for key, value in self.searches.items() if key in needed}
        # llm-compressor's dispatch leaves models that refer to themselves: only the collector frees their weights.
        gc.collect()

    # -- once for the grid ---------------------------------------------------------------------------------------------

    def load(self) -> None:
        cells = self.job.cells
        calibrates = any(c.recipe.calibrates for c in cells)
        ahead = None
        if calibrates and self.job.calibration.dataset == "demo":
            ahead = calibration.Ahead(self.job.calibration)
        # Once for the grid, beside importing and loading; begun after the fork above, which threads do not survive.
        self.source_sha256 = ThreadPoolExecutor(1).submit(self.hash_source)
        if not any(c.recipe.needs_model for c in cells):
            return
        self.say("importing torch and llm-compressor")
        with self.clock.timed("import"):
            upstream.trim()
            from quantize import llm_compressor as make

            upstream.patch()
        self.say(f"loading {self.job.source}")
        with self.clock.timed("load"):
            try:
                self.source = make.load(self.job.source, self.packed())
            except Exception as error:  # transformers fails in many ways; before any cell each is a refusal, in one line
                log.debug("loading %s", self.job.source, exc_info=True)
                line = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise Refused(
                    Fault(
                        f"source {self.job.source}",
                        f"cannot be loaded: {line}",
                        f"a model that transformers {metadata.version('transformers')} knows",
                    )
                ) from None
            self.sick = make.unhealthy(self.source.model.named_parameters())
        gc.freeze()  # what is loaded by now stays: later collections look at what a cell made alone, and take milliseconds
        if calibrates:
            self.calibrate(self.job.calibration, ahead)

    def hash_source(self) -> str:
        with self.clock.timed("hash_source"):
            return folder_sha256(self.job.source, skip=(MANIFEST,))

    def packed(self) -> list[str]:
        found = linears(self.job.source)
        recipe = next(c.recipe for c in self.job.cells if c.recipe.needs_model)
        kept = resolve_ignore(recipe.ignored, found)
        return [one.name for one in found if one.name not in kept]

    def calibrate(self, wanted: Calibration, ahead: calibration.Ahead | None) -> None:
        self.say(f"preparing {wanted.samples} calibration samples from {wanted.dataset}")
        with self.clock.timed("calibration_data"):
            tokens = family_of(read_config(self.job.source)).image_tokens
            samples = ahead.samples() if ahead else calibration.read(wanted, tokens)
            self.prepared = calibration.prepare(wanted, self.source.processor, samples)
        for text in calibration.warnings(self.prepared.facts, self.job.source):
            self.say(text, "warning")

    # -- one cell: built in this thread --------------------------------------------------------------------------------

    def one(self, cell: Product, index: int, count: int) -> None:
        """Build a cell and hand it to the finisher; a failure is an event, not an exception."""
        clock = Clock()
        self.say(f"building {cell.name} ({index + 1} of {count})", cell=cell.name)
        with self.recorded(cell), contextlib.ExitStack() as stack:
            folder = stack.enter_context(replaced(cell.output, self.job.force))
            search, write = self.make(cell, folder, clock)
            with clock.timed("wait"):
                self.finisher.wait()
            self.finisher.start(partial(self.finish, cell, folder, search, write, clock, stack.pop_all()))

    @contextlib.contextmanager
    def recorded(self, cell: Product) -> Iterator[None]:
        """An exception of the block as the cell's failure."""
        try:
            yield
        except Exception as error:  # a cell may fail in any way llm-compressor can; the others go on
            if not isinstance(error, CellFailed):
                log.exception("cell %s", cell.name)
            line = (str(error).strip().splitlines() or [""])[0]
            text = line if isinstance(error, CellFailed) else f"{type(error).__name__}: {line}"
            self.failed.append(cell.name)
            self.say(f"{cell.name} failed: {text}", "cell_failed", cell=cell.name)

    def make(self, cell: Product, folder: Path, clock: Clock) -> Written:
        """What the search gave, and what is left to do to have the checkpoint's files in `folder`."""
        if cell.recipe.needs_model and self.sick:
            raise CellFailed(f"the source cannot be quantized: {self.sick}")
        return cell.recipe.build(_Bench(self, cell, clock), folder)

    def searched(self, cell: Product, key: Mapping[str, Any], search: Callable[[Callable[[int, int], None]], Any]) -> Any:
        """See `methods.base.Workbench.searched`."""
        name = digest(key)
        if name not in self.searches:

            def progress(done: int, of: int) -> None:
                self.say(f"{cell.name}: searched {done} of {of} layers", cell=cell.name, step=done, steps=of)

            try:
                self.searches[name] = search(progress)
            except Exception as error:
                # Words alone: the exception holds on to the frames it passed, and with them to a copy of the model.
                self.searches[name] = CellFailed(f"the search it shares with another cell failed: {error}")
                raise
        if isinstance(self.searches[name], CellFailed):
            raise self.searches[name]
        return self.searches[name]

    # -- one cell: finished in the finisher's thread -------------------------------------------------------------------

    def finish(
        self,
        cell: Product,
        folder: Path,
        search: dict[str, Any],
        write: Callable[[], None],
        clock: Clock,
        renamed: contextlib.ExitStack,
    ) -> None:
        """Write, verify and describe the cell; leaving `renamed` puts the folder where it belongs, or removes it."""
        with self.recorded(cell):
            with renamed:
                self.finisher.go_on()
                with clock.timed("write"):
                    write()
                self.finisher.go_on()
                with clock.timed("verify"):
                    self.check(cell, folder)
                self.finisher.go_on()
                with clock.timed("hash"):
                    files, content = hashes(folder)
                self.write_manifest(cell, folder, search, files, content, clock)
                self.finisher.go_on()
            self.say(f"{cell.name} built in {clock.total():.1f} s", "cell_done", cell=cell.name, output=cell.output)

    def check(self, cell: Product, folder: Path) -> None:
        faults = verify(folder, self.job.source).faults
        if faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise CellFailed(f"the finished checkpoint has a fault: {faults[0]}{more}")

    def write_manifest(
        self, cell: Product, folder: Path, search: dict[str, Any], files: dict[str, str], content: str, clock: Clock
    ) -> None:
        assert self.source_sha256 is not None
        notes = []
        if content and content in self.contents:
            notes.append(f"no effect: its quantized tensors equal those of cell {self.contents[content]}")
            self.say(f"{cell.name}: {notes[0]}", "warning", cell=cell.name)
        self.contents.setdefault(content, cell.name)
        write_json(
            folder / MANIFEST,
            {
                "manifest_version": MANIFEST_VERSION,
                "name": cell.name,
                "recipe": cell.recipe.model_dump(mode="json"),
                "source": {"path": str(self.job.source), "sha256": self.source_sha256.result()},
                "calibration": self.prepared.facts if self.prepared and cell.recipe.calibrates else None,
                "compute_dtype": str(self.source.compute_dtype).removeprefix("torch.") if self.source else "bfloat16",
                "search": search,
                "notes": notes,
                "versions": versions(),
                "seconds": {"cell": clock.total(), **clock.seconds, **self.clock.seconds},
                "peak_bytes": peak_bytes(),
                "files": {n: {"sha256": h, "bytes": (folder / n).stat().st_size} for n, h in files.items()},
                "quantized_sha256": content,
                "content_sha256": joined_sha256(files),
            },
        )


class _Bench:
    """See `methods.base.Workbench`: one product's view of the job."""

    def __init__(self, builder: _Builder, product: Product, clock: Clock):
        self._builder, self._product, self._clock = builder, product, clock
        self.source, self.source_path = builder.source, builder.job.source
        self.batches: list[dict[str, Any]] = builder.prepared.batches if builder.prepared else []
        self.offload = builder.job.offload

    def timed(self, stage: str) -> contextlib.AbstractContextManager[None]:
        return self._clock.timed(stage)

    def progress(self, done: int, of: int) -> None:
        name = self._product.name
        self._builder.say(f"{name}: rounded {done} of {of} layers", cell=name, step=done, steps=of)

    def searched(self, key: Mapping[str, Any], search: Callable[[Callable[[int, int], None]], Any]) -> Any:
        return self._builder.searched(self._product, key, search)
