"""The folder of one Run: the resolved suite, its Records and samples, logs, reports. Every file is whole or absent.

results/NAME/run.json            the suite as it was resolved, the variants' facts, keys and labels of the Cells planned last
results/NAME/records/KEY.json    one Record
results/NAME/samples/KEY.jsonl   its samples
results/NAME/questions.jsonl     the questions that a report shows, with their text
results/NAME/images/HASH-N.png   their pictures (or .jpg), by the hash of the pixels that were sent
results/NAME/logs/               what the engines and builds printed
results/NAME/report.md           the tables
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from pydantic import ValidationError

from harness.record import intact
from harness.record.records import Noun, Record
from harness.record.run_facts import RunFacts
from harness.record.samples import Question, Row, Sample
from harness.util import files
from harness.util.errors import Fault, Refused

Kind = TypeVar("Kind", bound=Noun)
_row = msgspec.json.Decoder(Row)

KEPT = 4096
"""Records held in memory, about 10 kB each: a Run of any size is listed in as much."""


class RunFolder:
    """Reads and writes one Run. Makes the folder only when something is written."""

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[str, tuple[tuple[int, ...], Record | None]] = {}
        self._damage: dict[str, str] = {}
        self._intact = intact.Known(path)

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """The Run at `path`; raises Refused when there is none."""
        folder = cls(path)
        if not (path / "run.json").is_file():
            known = sorted(p.parent.name for p in path.parent.glob("*/run.json")) if path.parent.is_dir() else []
            right = f"there are: {', '.join(known)}" if known else "make one with `python -m harness run SUITE`"
            raise Refused(Fault(str(path), "is no Run: it has no run.json", right))
        return folder

    @property
    def logs(self) -> Path:
        """Where engines and builds log."""
        return self.path / "logs"

    def read(self) -> RunFacts:
        """run.json; raises Refused when there is none, or when it is damaged."""
        facts = self.find()
        if facts is None:
            raise Refused(Fault(str(self.path), "is no Run: it has no run.json"))
        return facts

    def find(self) -> RunFacts | None:
        """run.json, or None where there is none yet; raises Refused when it is damaged."""
        path = self.path / "run.json"
        try:
            return RunFacts.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            told = _told(error)
        except OSError as error:
            told = error.strerror or str(error)
        raise Refused(Fault(str(path), f"cannot be read: {told}", "use another --output, or --fresh"))

    def write(self, facts: RunFacts) -> None:
        """Replace run.json."""
        files.write_json(self.path / "run.json", facts.model_dump(mode="json", exclude_unset=True))

    @property
    def suite_name(self) -> str:
        """The suite's name, or the folder's where the suite has none."""
        return str(self.read().suite.get("name", self.path.name))

    def record(self, key: str) -> Record | None:
        """The Record of a Cell; None when there is none, or where `damage` says why it does not count.

        Read once, and again when its file or its samples have changed.
        """
        state = self.state(key)
        if self._known.get(key, (None,))[0] != state:
            if len(self._known) >= KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = state, self._record(key)
        return self._known[key][1]

    def state(self, key: str) -> tuple[int, ...]:
        """What changes when a Cell's Record or samples are written anew."""
        # Asked several times for each of a thousand Cells: a Path each time would take most of a second.
        return (*_state(f"{self.path}/records/{key}.json"), *_state(f"{self.path}/samples/{key}.jsonl"))

    def _record(self, key: str) -> Record | None:
        self._damage.pop(key, None)
        try:
            record = Record.model_validate_json((self.path / "records" / f"{key}.json").read_bytes())
        except OSError:
            return None
        except ValidationError:
            self._damage[key] = "its Record cannot be read"
            return None
        if record.samples and (why := self._intact.altered(record, self.samples_path(key), self.state(key))):
            self._damage[key] = why
            return None
        return record

    def records(self) -> Iterator[Record]:
        """The Records of the Cells planned last, in the plan's order."""
        facts = self.find()
        for key in facts.cells if facts else ():
            record = self.record(key)
            if record:
                yield record
        self._intact.save()

    def damage(self, key: str) -> str:
        """Why a Cell's Record does not count although it is there: it cannot be read, or its samples are not what was
        measured; empty when nothing is wrong. Such a Cell is measured anew by the next run."""
        self.record(key)
        return self._damage.get(key, "")

    def add(self, record: Record, samples: Iterable[Noun] = ()) -> Record:
        """Write the samples, then the Record that counts them: a kill in between leaves a Cell that is not done."""
        lines = [sample.model_dump_json() for sample in samples]
        data = "".join(f"{line}\n" for line in lines).encode()
        if lines:
            files.write_bytes(self.samples_path(record.cell.key), data)
        about = {"samples_bytes": len(data), "samples_sha256": intact.sha256(data)} if lines else {}
        record = record.model_copy(update={"samples": len(lines), "samples_bytes": None, "samples_sha256": None} | about)
        files.write_text(self.path / "records" / f"{record.cell.key}.json", record.model_dump_json(indent=1) + "\n")
        return record

    def samples_path(self, key: str) -> Path:
        """Where a Cell's samples lie."""
        return self.path / "samples" / f"{key}.jsonl"

    def samples(self, key: str) -> Iterator[Sample]:
        """An accuracy Cell's samples, one at a time; none when it has no file."""
        return self.rows(key, Sample)

    def rows(self, key: str, kind: type[Kind]) -> Iterator[Kind]:
        """A Cell's rows of whatever kind, one at a time; none when it has no file. Raises Refused, with the line, for one that
        is none."""
        path = self.samples_path(key)
        if path.is_file():
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        yield kind.model_validate_json(line)
                    except ValidationError as error:
                        what = f"is no {kind.__name__}: {_told(error)}"
                        raise Refused(Fault(f"{path}:{number}", what, "run it again")) from None

    def questions(self) -> dict[tuple[str, str], Question]:
        """The questions kept for people to look at, by task and document; a line that this version cannot read is left out."""
        found = {}
        with contextlib.suppress(OSError):
            for line in (self.path / "questions.jsonl").read_bytes().split(b"\n"):
                with contextlib.suppress(ValidationError):
                    question = Question.model_validate_json(line)
                    found[question.task, question.doc_id] = question
        return found

    def keep_questions(self, questions: Iterable[Question]) -> None:
        """Replace them. Their images are written before, with `image_path`."""
        lines = "".join(question.model_dump_json() + "\n" for question in questions)
        files.write_text(self.path / "questions.jsonl", lines)

    def image_path(self, name: str) -> Path:
        """Where a picture lies. `name` comes from a file, so only its last part counts."""
        return self.path / "images" / Path(name).name

    def faults(self) -> list[Fault]:
        """What forbids writing a Run here: a file in the way, or a folder that holds something else."""
        if self.path.exists() and not self.path.is_dir():
            return [Fault(str(self.path), "is a file", "name another folder with --output")]
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / "run.json").is_file():
            strange = {p.name for p in self.path.iterdir()} - {
                "logs",
                "claims",
                "records",
                "samples",
                "images",
                "questions.jsonl",
                "report.md",
                "report.html",
            }
            if strange:
                what = f"is no Run and holds other files ({sorted(strange)[0]})"
                return [Fault(str(self.path), what, "name another folder with --output")]
        if why := files.unwritable(self.path):
            return [Fault(str(self.path), f"cannot be written: {why}", "name another folder with --output")]
        return []

    def set_aside(self) -> Path | None:
        """Rename the whole Run to make place for a fresh one; returns its new place, or None when there was none."""
        if not self.path.exists():
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        os.rename(self.path, aside)
        return aside


def _told(error: ValidationError) -> str:
    """The first thing that is wrong with a run.json, or all keys that it lacks."""
    found = error.errors(include_url=False)
    missing = [".".join(map(str, one["loc"])) for one in found if one["type"] == "missing"]
    if missing:
        return f"it has no {', '.join(missing)}"
    place = ".".join(map(str, found[0]["loc"]))
    return f"{place}: {found[0]['msg']}" if place else found[0]["msg"]


def _state(path: str) -> tuple[int, ...]:
    """What changes when a file is written anew; empty when it is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116  # Path.stat is slower, and this is asked of every Cell
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def row(line: bytes, path: Path) -> Row:
    """A line of a samples file, as much of it as comparisons look at. Raises Refused, with the path, when it is no Sample."""
    try:
        return _row.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(Fault(str(path), f"holds a line that is no Sample: {error}")) from None
