"""A Ray cluster: Ray places tasks, starts them anew when their machine dies, and ends them with this process.

Nothing here watches, queues or retries: a task asks for its cards, its memory and machines of one kind, and Ray does the rest.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.engine import device
from harness.run.executors import Work, WorkResult, in_order, passed_on
from harness.suite.schema import Cluster
from harness.util import environments, files
from harness.util.errors import Fault, Refused
from harness.util.progress import Reporter

LOOK_S = 10.0
"""Seconds between two looks whether any machine of the kind is left."""
PROBE_S = 120.0
"""How long a machine may take to tell of its device."""


@dataclass(frozen=True)
class Kind:
    """Machines with the same device and the same driver: what was measured on one compares with the others."""

    device: dict[str, Any]
    nodes: tuple[dict[str, Any], ...]
    """As Ray describes them."""

    def __str__(self) -> str:
        driver = self.device.get("driver")
        return f"{self.device['name']}, driver {driver}" if driver else str(self.device["name"])

    def amounts(self, resource: str) -> list[float]:
        """How much of a resource each machine has."""
        return [float(node["Resources"].get(resource, 0)) for node in self.nodes]


class Ray:
    """See executors.Executor."""

    shares = True
    here = False

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.ray: Any = None
        self.kind: Kind

    def __enter__(self) -> Ray:
        self.ray = _imported()
        _connect(self.ray, self.cluster.address)
        try:
            self.kind = self._chosen(self._kinds())
        except BaseException:
            self.ray.shutdown()
            raise
        device.stand_for(self.kind.device)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        device.stand_for(None)
        self.ray.shutdown()  # Ray ends the workers of our job, and their guards the engines

    # -- the machines --------------------------------------------------------------------------------------------------

    def _kinds(self) -> list[Kind]:
        """The kinds of devices among the machines that have one to give."""
        wanted = "CPU" if environments.is_cpu() else "GPU"
        nodes = [n for n in self.ray.nodes() if n["Alive"] and n["Resources"].get(wanted, 0) >= 1]
        if not nodes:
            right = "start its machines, or use --executor local"
            raise Refused(Fault(f"the cluster at {self.cluster.address}", f"has no machine with a {wanted}", right))
        told = self._ask(nodes, _describe)
        found: dict[tuple[str, str], list[int]] = {}
        for i, one in enumerate(told):
            found.setdefault((str(one["name"]), str(one.get("driver"))), []).append(i)
        return [Kind(told[same[0]], tuple(nodes[i] for i in same)) for same in found.values()]

    def _chosen(self, kinds: list[Kind]) -> Kind:
        """The one kind to measure on, or a refusal that names them."""
        named = self.cluster.device
        fitting = [kind for kind in kinds if named is None or named.lower() in str(kind).lower()]
        if len(fitting) == 1:
            return fitting[0]
        there = "; ".join(f"{len(kind.nodes)} with {kind}" for kind in kinds)
        if named is None:
            what = f"the cluster has machines of several kinds ({there}), whose figures do not compare"
            raise Refused(Fault("cluster.device", what, f"name one, for example cluster.device: {str(kinds[0])!r}"))
        what = f"{named!r} matches {len(fitting)} kinds of machines, of: {there}"
        raise Refused(Fault("cluster.device", what, "give more of the name, or its driver"))

    def _ask(self, nodes: Sequence[dict[str, Any]], question: Any, *given: Any) -> list[Any]:
        """What each machine answers. Raises Refused when one does not."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asking = self.ray.remote(num_cpus=0, max_retries=1)(_there)
        here = _place(not self.cluster.store)
        asked = [
            asking.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                here, question, given
            )
            for node in nodes
        ]
        answers = []
        for node, one in zip(nodes, asked, strict=True):
            try:
                answers.append(self.ray.get(one, timeout=PROBE_S))
            except Exception as error:  # whatever a foreign machine's Python can raise, it cannot measure
                line = (str(getattr(error, "cause", None) or error).strip().splitlines() or [type(error).__name__])[-1]
                right = "the same Python environment and the same folder on every machine; see docs/cluster.md"
                raise Refused(Fault(f"machine {node['NodeManagerAddress']}", f"cannot be used: {line[:300]}", right)) from None
        return answers

    @property
    def slots(self) -> int:
        return len(self.kind.nodes) if environments.is_cpu() else int(sum(self.kind.amounts("GPU")))

    def told(self) -> str:
        count = "" if environments.is_cpu() else f", {self.slots} GPUs"
        return f"the Ray cluster at {self.cluster.address}, {len(self.kind.nodes)} × {self.kind}{count}"

    def unseen(self, written: Sequence[Path], read: Sequence[Path]) -> list[Fault]:
        if self.cluster.store:
            return self._unreached(self.cluster.store)
        with contextlib.ExitStack() as stack:
            wanted = {str(path.absolute()): path for path in read}
            for path in written:
                # A folder of the same name may be another one: only a file that was made just now tells.
                there = next(p for p in (path.absolute(), *path.absolute().parents) if p.is_dir())
                mark = stack.enter_context(tempfile.NamedTemporaryFile(prefix=".seen-", dir=there))
                wanted[mark.name] = path
            seen = self._ask(self.kind.nodes, _exist, list(wanted))
        found = []
        for i, path in enumerate(wanted.values()):
            blind = [n["NodeManagerAddress"] for n, answers in zip(self.kind.nodes, seen, strict=True) if not answers[i]]
            if blind:
                what = f"is not seen by {len(blind)} of {len(seen)} machines (first: {blind[0]})"
                found.append(Fault(files.shown(path), what, "use a folder that all machines share"))
        return found

    def _unreached(self, store: str) -> list[Fault]:
        """As `unseen`, of a store: what was written here just now must be there for everyone."""
        mark = f"{store.rstrip('/')}/.seen-{uuid.uuid4().hex}"
        try:
            system, path = _store(mark)
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.pipe_file(path, b"")
            try:
                seen = self._ask(self.kind.nodes, _reach, mark)
            finally:
                system.rm_file(path)
        except (OSError, ValueError, ImportError) as error:
            return [
                Fault("cluster.store", f"{store} cannot be written: {error}", "an address that fsspec knows, and its client")
            ]
        blind = [n["NodeManagerAddress"] for n, sees in zip(self.kind.nodes, seen, strict=True) if not sees]
        what = f"{store} is not seen by {len(blind)} of {len(seen)} machines (first: {blind[0] if blind else ''})"
        return (
            [Fault("cluster.store", what, "an address that is the same for all, such as s3://bucket/folder")] if blind else []
        )

    def faults(self, tasks: Sequence[Work]) -> list[Fault]:
        found = []
        cards, memory = max(self.kind.amounts("GPU")), max(self.kind.amounts("memory"))
        for task in tasks:
            if not environments.is_cpu() and task.gpus > cards:
                what = f"is {task.gpus}, and no machine with {self.kind} has more than {cards:.0f} GPUs"
                found.append(Fault("engine.tensor_parallel_size", what, f"at most {cards:.0f}"))
            if task.memory > memory:
                what = f"asks for {task.memory / 2**30:.1f} GiB of memory, and no machine offers more than {memory / 2**30:.1f}"
                found.append(Fault(task.name, what, "set cluster.quantize_memory_gib"))
        return found

    # -- the work ------------------------------------------------------------------------------------------------------

    def run(self, tasks: Sequence[Work], report: Reporter) -> Iterator[tuple[Work, WorkResult]]:
        order, named = in_order(tasks)
        running: dict[Any, Work] = {}
        while order.is_active():
            for name in order.get_ready():
                running[self._submit(named[name])] = named[name]
            ended, _ = self.ray.wait(list(running), timeout=LOOK_S)
            if not ended and not self._any_left():
                # Ray would wait for such a machine for ever.
                lost = WorkResult([f"no machine with {self.kind} is left; the same command goes on when there is one"])
                for task in running.values():
                    yield task, lost
                return
            for reference in ended:
                task = running.pop(reference)
                yield task, self._outcome(task, reference)
                order.done(task.name)

    def _submit(self, task: Work) -> Any:
        ids = ",".join(node["NodeID"] for node in self.kind.nodes)
        made = self.ray.remote(
            num_gpus=0 if environments.is_cpu() else task.gpus,
            num_cpus=self._cores(task),
            memory=task.memory,
            # Its process ends with it: no device memory, no cached fact and no thread of one task reaches the next.
            max_calls=1,
            max_retries=self.cluster.retries,
            label_selector={"ray.io/node-id": f"in({ids})"},
            scheduling_strategy="SPREAD",
        )(_there)
        return made.options(name=task.name).remote(_place(not self.cluster.store), _work, (task.work, task.argument))

    def _cores(self, task: Work) -> float:
        """Processor cores to ask for: all of a machine for what must be alone on it, and on a CPU for everything."""
        if task.alone:
            return max(self.kind.amounts("CPU"))
        least = min(self.kind.amounts("CPU"))
        return least if environments.is_cpu() else min(1.0, least)

    def _any_left(self) -> bool:
        ours = {node["NodeID"] for node in self.kind.nodes}
        return any(node["Alive"] and node["NodeID"] in ours for node in self.ray.nodes())

    def _outcome(self, task: Work, reference: Any) -> WorkResult:
        try:
            outcome: WorkResult = self.ray.get(reference)
            return outcome
        except self.ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, OSError):
                raise cause from None
            line = (str(cause or error).strip().splitlines() or [""])[-1]
            return WorkResult([f"{task.name}: {type(cause or error).__name__}: {line[:300]}"])
        except self.ray.exceptions.RayError as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return WorkResult([f"{task.name}: Ray gave up on it after up to {self.cluster.retries} retries: {line[:200]}"])


def _imported() -> Any:
    """Ray, told to print every line of its workers once and to keep its own log to itself."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        import ray
    except ImportError:
        right = "pip install '.[ray]' in a checkout, or use --executor local"
        raise Refused(Fault("executor: ray", "Ray is not installed here", right)) from None
    return ray


def _connect(ray: Any, address: str) -> None:
    """Join a running cluster; Refused when there is none at the address, or one that does not fit."""
    right = "start one with `ray start`, name it with --address HOST:PORT, or use --executor local"
    where = f"the cluster at {address}"
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "//" not in address:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise Refused(Fault(where, f"does not answer: {error.strerror or error}", right)) from None
    elif address != "auto" and "//" not in address:
        raise Refused(Fault(f"cluster.address: {address}", "is no address", "host:port, or auto"))
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=True)
    except ConnectionError:
        raise Refused(Fault(where, "is not there", right)) from None
    except Exception as error:  # Ray raises ConnectionError, RuntimeError (other versions) and types of its own
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Refused(Fault(where, f"cannot be joined: {line[:300]}", right)) from None


# -- on the other machine ----------------------------------------------------------------------------------------------


def _place(shared: bool) -> dict[str, Any]:
    """What a process elsewhere must take over from this one: the folder, where it is shared, and some of the environment."""
    return {"folder": str(Path.cwd()) if shared else None, "variables": passed_on()}


def _there(place: dict[str, Any], question: Any, given: Sequence[Any]) -> Any:
    """Runs in a worker of Ray's."""
    if place["folder"]:
        os.chdir(place["folder"])
    os.environ.update(place["variables"])
    # Compiled kernels are written while others read them: on a disk of this machine, never on a home that all share.
    caches = Path(tempfile.gettempdir()) / f"vl-harness-{os.getuid()}"
    os.environ.setdefault("VLLM_CACHE_ROOT", str(caches / "vllm"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(caches / "triton"))
    _without_bars()
    return question(*given)


def _without_bars() -> None:
    """Workers have imported tqdm before they hear of us, so TQDM_DISABLE comes too late, and every bar fills the log."""
    from tqdm import tqdm

    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)


def _describe() -> dict[str, Any]:
    # Ray hides the cards from a task that asks for none; whatever runs in this process later sees its own.
    hidden = os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        return device.describe_here()
    finally:
        device.describe_here.cache_clear()
        device.cards.cache_clear()
        if hidden is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden


def _exist(paths: Sequence[str]) -> list[bool]:
    return [Path(path).exists() for path in paths]


def _store(address: str) -> Any:
    from fsspec.core import url_to_fs

    return url_to_fs(address)


def _reach(address: str) -> bool:
    system, path = _store(address)
    return bool(system.exists(path))


def _work(work: Any, given: Any) -> WorkResult:
    outcome: WorkResult = work(given, Reporter())
    sys.stderr.flush()
    return outcome
