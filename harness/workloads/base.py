"""What every workload is: one class in a file of its own, with defaults for what most of them do not need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from harness.engine.server import Engine
from harness.engine.session import Session
from harness.engine.settings import EngineSettings
from harness.record.records import Metric, Noun
from harness.record.samples import Sample
from harness.util.errors import Fault
from harness.util.strict import Strict

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what) while a Cell is measured."""
Comparer = Literal["answers", "trials", "tokens"]
"""What compares two arms: their answers question by question, their figures trial by trial, or the probabilities of one
arm's tokens in both."""


@dataclass
class Measurement:
    """What a workload hands back for one Cell; the run makes the Record of it."""

    metrics: Mapping[str, Metric]
    samples: Iterable[Noun] = ()
    status: Literal["done", "invalid"] = "done"
    reason: str | None = None
    labels: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Context:
    """What a Cell is measured with."""

    engine: Engine
    session: Session
    spec: Any
    """The workload's section of the suite, an instance of its `Spec`."""
    point: dict[str, Any]
    progress: Progress
    following: dict[str, Any] | None = None
    """The point of the Cell that comes next, where it is this workload's and on this engine."""
    reference: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    """Of a workload that is `relative_to` another: the baseline's samples of that one, by task."""


class Workload:
    """One kind of measurement. A subclass says what it is in class attributes and implements `points` and `measure`."""

    name: ClassVar[str]
    """What suites, Cells and tables call it."""
    Spec: ClassVar[type[Strict] | None] = None
    """Its section under `workloads` of a suite; None where another workload's section asks for it (see `spec_of`)."""
    compared_by: ClassVar[Comparer] = "trials"
    """What compares two arms of it."""
    timed: ClassVar[bool] = False
    """Its figure is a time: its arms take turns on one device, and nothing else runs beside them."""
    lets_others_work: ClassVar[bool] = False
    """Its outcome does not hang on what else the machine does: the next engine may be made ready meanwhile."""
    trained_only: ClassVar[bool] = False
    """It says nothing of a model that was never trained, so random weights are refused."""
    under_load: ClassVar[bool] = False
    """Its points name a load and how much of it is asked at once; output tokens/s are its headline."""
    relative_to: ClassVar[str | None] = None
    """The workload whose answers by the baseline it starts from; these are measured first."""
    own_tables: ClassVar[bool] = False
    """Tables of its own show it (reports/tables). Without them one table shows all such workloads, and the comparison of
    variants lists what leads them."""
    better: ClassVar[Mapping[str, int]] = {}
    """Metrics of its own that are compared: 1 where more is better, -1 where less is. Bench keys are known without."""
    leads: ClassVar[Mapping[str, str]] = {}
    """Metrics that stand in the summary of a Run, with the title of their column."""

    def __init__(self) -> None:
        self.warnings: list[Fault] = []
        """After `preflight`: what will not be measured, and is no reason to refuse the rest."""

    @classmethod
    def spec_of(cls, sections: Any) -> Any:
        """What the suite's `workloads` ask of it; None where they ask nothing."""
        return getattr(sections, cls.name)

    @classmethod
    def judged_by(cls) -> str:
        """The section of a gate's policy that judges it."""
        if cls.compared_by != "trials":
            return "accuracy"
        return "speed" if cls.timed else "memory"

    def points(self, spec: Any) -> list[dict[str, Any]]:
        """The points that `spec` asks for; raises Refused. Imports nothing heavy."""
        raise NotImplementedError

    def identity(self, spec: Any, point: dict[str, Any]) -> dict[str, Any]:
        """Everything in `spec` and in the task that can change the outcome at `point`. Imports nothing heavy."""
        return spec.model_dump(mode="json") | point

    def faults(self, spec: Any, points: list[dict[str, Any]], settings: EngineSettings) -> list[Fault]:
        """What is wrong with `spec` at its points, told without loading a document."""
        return []

    def preflight(self, spec: Any, points: list[dict[str, Any]], settings: EngineSettings, model: str) -> list[Fault]:
        """What is wrong with the documents themselves; loads them, before any engine starts."""
        return []

    @classmethod
    def start(cls, session: Session) -> None:
        """Start the processes that it needs beside the engine; they get ready by themselves."""

    @classmethod
    def before_engines(cls, session: Session) -> None:
        """What must be measured, or have ended, before an engine holds the device."""

    def measure(self, cell: Context) -> Measurement:
        """Measure one Cell against a running engine; raises CellFailed."""
        raise NotImplementedError
