"""The page of a Run: one HTML file that asks the network for nothing."""

from __future__ import annotations

import base64
import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup, escape

from harness.compare.lost import LostDocument, lost_documents
from harness.record.folder import RunFolder
from harness.record.samples import Question
from reports import tables
from reports.languages import Words
from reports.plots import plots
from reports.run_data import RunData
from reports.table import RANDOM, Table, frame, gib, percent
from reports.tables import summary

PAGE = Path(__file__).parent
SHOWN = 120
"""Lost questions on the page, at most."""
IMAGE_BYTES = 2_500_000
"""Pictures on the page, at most, before they are encoded."""
ANSWERS = 8
"""Candidates whose answers stand under one question, at most."""
CARDS = 4
"""Up to so many candidates get a card of their own on top."""
TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


def page(run: RunFolder, language: str = "en") -> str:
    """The whole page. Raises Refused when there is no Run."""
    source, words = RunData.of(run), Words(language)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["script"] = _script
    drawn = list(plots(source))
    made = {table.title: table for table in tables.of(source)}
    total = made.pop("Summary", None) or Table("Summary", pd.DataFrame())
    lost = list(_lost(source))
    return environment.get_template("page.html").render(
        t=words.say,
        language=language,
        source=source,
        random=RANDOM if source.random_weights else None,
        cards=_tiles(source) if len(source.variants) <= CARDS + 1 else [],
        summary=words.table(total),
        tables=[words.table(table) for table in made.values()],
        plots=[(plot, words.table(plot.table()), _spec(plot.spec, words)) for plot in drawn],
        lost=lost,
        lost_total=sum(c.lost for c in source.accuracy if not c.total and not c.noise),
        unfinished=source.unfinished(),
        provenance=words.table(provenance(source)),
        commands=commands(source),
        suite=yaml.safe_dump(source.facts.suite, sort_keys=False, allow_unicode=True, width=100),
        text=_text(words),
        style=Markup((PAGE / "page.css").read_text(encoding="utf-8")),
        script=Markup((PAGE / "page.js").read_text(encoding="utf-8")),
        vega=Markup((PAGE / "vega.js").read_text(encoding="utf-8")) if drawn else None,
    )


def _script(value: Any) -> Markup:
    """JSON for a script element: no text in it can end the element or start another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _spec(spec: Any, words: Words, key: str = "") -> Any:
    """A plot's specification with its titles and the values that are the project's words in the page's language."""
    if isinstance(spec, dict):
        return {name: _spec(value, words, name) for name, value in spec.items()}
    if isinstance(spec, list):
        return [_spec(value, words, key) for value in spec]
    translated = {"title", "labels", "name", "part", "kind", "state", "domain"}
    return words.say(spec) if isinstance(spec, str) and key in translated else spec


@dataclass
class Tile:
    """A candidate in a few figures."""

    name: str
    big: str
    unit: str
    verdict: str
    facts: list[tuple[str, str]]
    why: list[str]
    """Why there are no figures."""


def _tiles(source: RunData) -> list[Tile]:
    base, *candidates = summary.lines(source) or [summary.Line("")]
    made, tasks = [], len(summary.tasks_of(source))
    for line in candidates:
        facts = []
        big, unit, verdict = "N/A", "", ""
        if line.recovery is not None and line.comparison is not None and not source.random_weights:
            r = line.recovery
            big, unit = f"{percent(r.value, 1)} %", f"[{percent(r.low, 1)}, {percent(r.high, 1)}]"
            verdict = "noise floor" if line.comparison.noise else line.comparison.verdict
            if line.compared < tasks:
                verdict += f" ({line.compared} of {tasks} tasks)"
            c = line.comparison
            facts.append(("accuracy %", f"{percent(c.baseline_score)} → {percent(c.candidate_score)}"))
            facts.append(("lost / gained / questions", f"{c.lost:,} / {c.gained:,} / {c.n:,}"))
        if line.disk_bytes and base.disk_bytes:
            facts.append(("weights on disk", f"{gib(line.disk_bytes)} ({percent(line.disk_bytes / base.disk_bytes, 0)} %)"))
        for title, mine, theirs in (
            ("tokens/s at 1", line.single, base.single),
            ("at saturation", line.saturated, base.saturated),
        ):
            if mine and theirs:
                facts.append((title, f"{mine.value / theirs.value:.2f}x"))
        if line.kv_tokens and base.kv_tokens:
            facts.append(("KV cache, tokens", f"{line.kv_tokens / base.kv_tokens:.2f}x"))
        why = [] if facts else list(dict.fromkeys(line.reasons.values())) or ["not measured"]
        made.append(Tile(line.name, big, unit, verdict, facts, why))
    return made


@dataclass
class Exhibit:
    """A lost question as it is shown."""

    document: LostDocument
    text: str | None
    images: list[str]
    """data: addresses."""
    note: str | None
    answers: list[tuple[str, str, Markup]]
    """Variant, its answer, and the answer with what differs from the right one marked."""


def _lost(source: RunData) -> Any:
    left, known = IMAGE_BYTES, source.run.questions()
    for document in lost_documents(source.accuracy, SHOWN):
        question = known.get((document.task, document.doc_id))
        if question is not None and question.image_hash != document.image_hash:
            question = None
        images, note = _images(source.run, question, left)
        left -= sum(map(len, images)) * 3 // 4
        answers = [(name, answer, _marked(answer, document.before)) for name, answer in document.answers.items()][:ANSWERS]
        yield Exhibit(document, question.text if question else None, images, note, answers)


def _images(run: RunFolder, question: Question | None, left: int) -> tuple[list[str], str | None]:
    """The pictures as data: addresses, and why some are missing."""
    if question is None:
        return [], "N/A: question and picture are not kept in this Run (report --questions keeps them)"
    if question.reason:
        return [], f"N/A: {question.reason}"
    found: list[str] = []
    for name in question.images:
        path = run.image_path(name)
        if path.suffix not in TYPES or not path.is_file():
            return found, "N/A: the picture's file is missing"
        if path.stat().st_size > left:
            return found, "N/A: the picture is left out to keep this file small"
        left -= path.stat().st_size
        found.append(f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}")
    return found, "shown smaller or coarser than it was asked" if question.reduced else None


def _marked(answer: str, right: str) -> Markup:
    """The answer with what is not in the baseline's marked."""
    if len(answer) + len(right) > 2000:
        return escape(answer)
    parts = difflib.SequenceMatcher(None, right, answer, autojunk=False).get_opcodes()
    marked = (
        escape(answer[c:d]) if kind == "equal" else Markup("<mark>{}</mark>").format(answer[c:d])
        for kind, _, _, c, d in parts
        if d > c
    )
    return Markup("").join(marked)


def provenance(source: RunData) -> Table:
    """Where the figures come from: device, versions, commits, times, checkpoints."""
    records = source.records
    identities = [r.provenance.identity for r in records]
    commits = {
        f"{r.provenance.git['commit']}{' (changed)' if r.provenance.git['changed'] else ''}"
        for r in records
        if r.provenance.git
    }
    versions = {f"{n} {v}" for i in identities for n, v in (i.get("versions") or {}).items() if v}
    rows = {
        "model": source.model,
        "device": ", ".join(sorted({str((i.get("device") or {}).get("name")) for i in identities})),
        "versions": ", ".join(sorted(versions)),
        "harness commit": ", ".join(sorted(commits)) or "N/A (not run from a checkout)",
        "measured": _between([r.provenance.started for r in records]),
        "Cells": f"{len(records)}, {sum(r.status != 'done' for r in records)} failed or invalid",
        "imported from": ", ".join(sorted({r.imported_from for r in records if r.imported_from})),
    }
    for name in source.variants:
        content = source.facts.variant(name).content
        rows[f"content of {name}"] = str(content)[:16] if content else "N/A"
    shown = [{"what": what, "value": value} for what, value in rows.items() if value]
    return Table("Provenance", frame(shown))


def _between(times: list[str]) -> str:
    return f"{min(times)} – {max(times)}" if times else "N/A"


def commands(source: RunData) -> list[str]:
    """What measures the same once more, given the suite below as suite.yaml."""
    commits = {r.provenance.git["commit"] for r in source.records if r.provenance.git}
    checkout = [f"git checkout {commits.pop()}"] if len(commits) == 1 else []
    return [*checkout, "python -m harness run suite.yaml"]


def _text(words: Words) -> dict[str, str]:
    """What the script says."""
    said = ("Save as SVG", "Save as PNG", "cannot be drawn here", "light", "dark", "auto", "questions shown")
    return {text: words.say(text) for text in said}
