"""The block of a model card: summary, tables, how it was quantized, what was not measured, how to reproduce. From Records."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness import __version__
from harness.checkpoints.verify import Structure
from harness.compare.stats import Interval
from harness.compare.trials import SpeedComparison, compare_speed
from harness.record.records import Record, computed_otherwise
from harness.suite.schema import Suite
from harness.workloads import WORKLOADS
from quantize.methods import method_of
from reports import tables
from reports.card import public, words
from reports.card.results import Subject, compared, results_path, suite_name
from reports.card.view import RunView
from reports.table import OTHERWISE, gib, percent
from reports.tables import speed

SUMMED = ("weights_gib", "kv_cache_tokens")
"""Memory figures that stand in the summary."""
MOST = 20
"""Lines of what was left out, or could not be measured."""


def block(subject: Subject, language: str) -> str:
    """The block's Markdown, without its markers; no absolute path of this machine stands in it."""

    def say(sentence: str, **filled: Any) -> str:
        return words.say(language, sentence, **filled)

    parts = [
        f"## {say('Measured results')}",
        "\n".join(_warnings(subject, say)),
        _head(subject, say),
        "\n".join(f"- {line}" for line in _summary(subject, say)),
        "\n".join(_tables(subject, language)),
        f"### {say('How it was quantized')}",
        "\n".join(f"- {line}" for line in _quantized(subject, say)),
        f"### {say('What was not measured')}",
        "\n".join(f"- {line}" for line in _not_measured(subject, say)),
        f"### {say('How to reproduce')}",
        "\n\n".join(_reproduce(run, subject, say) for run in subject.runs),
    ]
    return public.text("\n\n".join(part.strip("\n") for part in parts if part))


def _warnings(subject: Subject, say: Any) -> Iterator[str]:
    records = [r for run in subject.runs for r in run.records()]
    if any(r.random_weights for r in records):
        yield "> " + say("**Random weights**: the model was never trained. Size, memory, speed and energy are all that "
                         "these figures say.")  # fmt: skip
    for name, (asked, computed) in computed_otherwise(records).items():
        yield "> " + say(OTHERWISE, variant=f"`{name}`", computed=computed, asked=asked)
    imported = [f"`{r.cell.label}` ({code(Path(r.imported_from).name)})" for r in records if r.imported_from]
    if imported:
        yield "> " + say("**Imported**: other tools measured what is marked so: {labels}.", labels=", ".join(imported))


def _head(subject: Subject, say: Any) -> str:
    devices = dict.fromkeys(str(r.provenance.identity.get("device", {}).get("name") or "") for r in subject.records())
    return str(
        say(
            "`{variant}` against `{baseline}`, measured with vl-harness {version} on {devices}. Every figure stands in a "
            "Record of {files}; N/A was not measured.",
            variant=subject.variant,
            baseline=subject.baseline,
            version=__version__,
            devices=", ".join(escaped(name) for name in devices if name) or say("an unnamed device"),
            files=", ".join(f"[{results_path(run)}]({results_path(run)})" for run in subject.runs),
        )
    )


def _summary(subject: Subject, say: Any) -> Iterator[str]:
    for run in subject.runs:
        yield from _accuracy(run, subject, say)
    size, base = (_bytes(subject, name) for name in (subject.variant, subject.baseline))
    if size and base:
        yield say(
            "Weights on disk: {candidate}, the baseline {baseline} ({share} % of it).",
            candidate=gib(size),
            baseline=gib(base),
            share=percent(size / base, 1),
        )
    compared = [c for run in subject.runs for c in compare_speed(run, run.baseline)[0] if c.candidate == subject.variant]
    for c in compared:
        if c.metric in SUMMED:
            yield say(
                "{metric}: {candidate} {unit}, the baseline {baseline} {unit}.",
                metric=c.metric,
                candidate=speed.number(c.candidate_mean),
                baseline=speed.number(c.baseline_mean),
                unit=c.unit,
            )
    yield from _throughput([c for c in compared if c.metric == "output_throughput" and "input-bound" not in c.labels], say)
    for suite, outcome in subject.outcomes.items():
        yield say("Gate of the suite {suite}: **{outcome}**.", suite=escaped(suite), outcome=say(outcome))


def _bytes(subject: Subject, name: str) -> int | None:
    return subject.runs[0].facts.variant(name).disk_bytes


def _accuracy(run: RunView, subject: Subject, say: Any) -> Iterator[str]:
    """The comparison over all tasks, or the only task's."""
    found = [c for c in compared(run)[0] if c.candidate == subject.variant]
    total = found[-1:]  # the total comes last, and is made where there is more than one task
    for c in total:
        verdict = {
            "loss": lambda c=c: say("A loss is shown (p = {p}).", p=f"{c.p_value:.2g}"),
            "gain": lambda c=c: say("A gain is shown (p = {p}).", p=f"{c.p_value:.2g}"),
            "none shown": lambda c=c: _none_shown(c.detectable, say),
        }.get(c.verdict, lambda c=c: say("Verdict: {verdict}.", verdict=c.verdict))()
        yield say(
            "Accuracy over {n} questions: {candidate} %, the baseline {baseline} %; recovery {recovery} % [{low}, {high}] "
            "({level} % interval). {verdict}",
            n=c.n,
            candidate=percent(c.candidate_score),
            baseline=percent(c.baseline_score),
            **_interval(c.recovery),
            level=f"{100 * c.recovery.level:g}",
            verdict=verdict,
        )
        if c.stopped:
            yield say(
                "Asking stopped when it was decided, after {n} of {of} questions: the score is of those alone.", n=c.n, of=c.of
            )


def _interval(recovery: Interval) -> dict[str, str]:
    return {"recovery": percent(recovery.value), "low": percent(recovery.low), "high": percent(recovery.high)}


def _none_shown(detectable: float | None, say: Any) -> str:
    if detectable is None:
        return str(say("No difference is shown."))
    sentence = "No difference is shown; a loss of {points} points or more would have been shown with 80 % power."
    return str(say(sentence, points=percent(detectable)))


def _throughput(compared: list[SpeedComparison], say: Any) -> Iterator[str]:
    if not compared:
        return
    low, high = (pick(compared, key=lambda c: c.speedup.value) for pick in (min, max))
    if low is high:
        yield say("Output tokens/s, times the baseline's: {ratio} at {place}.", ratio=speed.ratio(low), place=code(low.place))
        return
    yield say(
        "Output tokens/s, times the baseline's: from {low} at {low_place} to {high} at {high_place}.",
        low=speed.ratio(low),
        low_place=code(low.place),
        high=speed.ratio(high),
        high_place=code(high.place),
    )


def _tables(subject: Subject, language: str) -> Iterator[str]:
    """Every table of every Run; one that an earlier Run gave already is not shown twice."""
    shown: dict[str, str] = {}
    for run in subject.runs:
        for table in tables.tables(run):
            if not len(table.frame):
                continue
            text = words.table(table, language)
            if text in shown.values():
                continue
            if table.title in shown:
                table.title = f"{table.title} ({suite_name(run)})"
                text = words.table(table, language)
            shown[table.title] = text
            yield text


def _quantized(subject: Subject, say: Any) -> Iterator[str]:
    manifest, recipe = subject.facts.manifest, subject.facts.recipe
    if not recipe or not manifest:
        yield say(
            "It was not built by vl-harness: how it was quantized is not known here."
            if subject.facts.origin != "source"
            else "It was not quantized: these are the source's weights, measured once more."
        )
        if subject.packed:
            yield _weights(subject.packed, subject, say)
        return
    versions = manifest["versions"]
    tools = [f"{name} {versions[name]}" for name in ("llmcompressor", "compressed-tensors", "torch") if versions.get(name)]
    yield say("Method: {method} with {tool}.", method=recipe["method"], tool=", ".join(tools))
    if subject.packed:
        yield _weights(subject.packed, subject, say)
    method = method_of(recipe["method"])
    for sentence, filled in method.told(recipe, manifest.get("search") or {}) if method else ():
        yield say(sentence, **filled)
    yield say("Kept in high precision: {ignore}.", ignore=", ".join(code(name) for name in recipe["ignore"]) or say("none"))
    yield _calibration(manifest.get("calibration"), say)
    source = manifest["source"]
    name = code(subject.base_model or Path(source["path"]).name)
    yield say("Source: {source}.", source=f"{name}, sha256 {code(source['sha256'][:16])}")


def _weights(packed: Structure, subject: Subject, say: Any) -> str:
    """What the weights are, and the activations where they are quantized as well."""
    if any(one.kind != "wna16" for one in packed.schemes):
        return str(say("Scheme: {scheme}.", scheme=packed.scheme))
    return str(say("Weights: {scheme}; activations stay in {dtype}.", scheme=_scheme(packed, say), dtype=_dtype(subject)))


def _scheme(packed: Structure, say: Any) -> str:
    size = packed.group_size
    group = say("one scale an output channel") if size == -1 else say("groups of {size}", size=size)
    symmetry = say("symmetric" if packed.symmetric else "asymmetric")
    return str(say("INT{bits}, {group}, {symmetry}", bits=packed.num_bits, group=group, symmetry=symmetry))


def _dtype(subject: Subject) -> str:
    return str((subject.runs[0].facts.suite.get("engine") or {}).get("dtype", "bfloat16"))


def _calibration(used: dict[str, Any] | None, say: Any) -> str:
    if not used:
        return str(say("Calibration: none."))
    name = " ".join(str(used[key]) for key in ("dataset", "subset", "split") if used.get(key))
    return str(
        say(
            "Calibration: {used} of {asked} samples of {dataset} ({tokens} tokens, {images} images), at most {length} tokens "
            "each, seed {seed}.",
            used=used["used"],
            asked=used["asked"],
            dataset=code(name),
            tokens=f"{used['tokens']:,}",
            images=used["images"],
            length=used["max_seq_length"],
            seed=used["seed"],
        )
    )


def _not_measured(subject: Subject, say: Any) -> Iterator[str]:
    for run in subject.runs:
        if run.missing():
            sentence = "Suite {suite}: {count} planned Cells have no Record."
            yield say(sentence, suite=escaped(suite_name(run)), count=run.missing())
    yield from _first([_left_out(r, say) for run in subject.runs for r in run.left_out()], say)
    records = subject.records()
    asked = sorted((kind for kind in WORKLOADS if kind.Spec), key=lambda kind: (kind.compared_by, not kind.timed))
    absent = [kind.name for kind in asked if not any(r.cell.workload == kind.name for r in records)]
    if absent:
        yield say("Not in these Runs: {what}.", what=say(", ").join(_named(w, say) for w in absent))
    reasons: dict[str, list[str]] = {}
    for name, why in dict.fromkeys((n, m.reason) for r in records for n, m in r.metrics.items() if m.value is None):
        reasons.setdefault(why or say("no reason was recorded"), []).append(code(name))
    yield from _first(
        [say("{metrics}: {reason}.", metrics=", ".join(n), reason=escaped(why)) for why, n in reasons.items()], say
    )
    yield say("Other devices, other versions, other loads and other tasks than those named above.")


def _named(workload: str, say: Any) -> str:
    """A workload's name in the card's language, where it has one."""
    try:
        return str(say(workload))
    except KeyError:
        return workload


def _left_out(record: Record, say: Any) -> str:
    sentence = "`{label}` is left out, it {status}: {reason}."
    if record.status == "done":
        status, reason = "was measured with random weights", say("an accuracy of random weights says nothing")
    else:
        status = "failed" if record.status == "failed" else "is invalid"
        reason = escaped(record.reason) if record.reason else say("no reason was recorded")
    return str(say(sentence, label=record.cell.label.replace("`", "'"), status=say(status), reason=reason))


def _first(lines: list[str], say: Any) -> Iterable[str]:
    rest = [say("And {count} more.", count=len(lines) - MOST)] if len(lines) > MOST else []
    return itertools.chain(lines[:MOST], rest)


def _reproduce(run: RunView, subject: Subject, say: Any) -> str:
    commit, commits = "", [r.provenance.git for r in run.records() if r.provenance.git]
    if commits:
        changed = " (commit {commit}, with changes)" if any(g["changed"] for g in commits) else " (commit {commit})"
        commit = say(changed, commit=code(str(commits[0]["commit"])[:12]))
    sentence = "Suite {suite}, with vl-harness {version}{commit}; every setting is said in `{file}`. Save as suite.yaml, then:"
    suite, names = _suite(run, subject)
    fetch = f"python -m harness fetch model {subject.base_model}\n" if subject.base_model else ""
    lines = [
        say(sentence, suite=escaped(suite_name(run)), version=__version__, commit=commit, file=results_path(run)),
        fenced(f"{fetch}python -m harness run suite.yaml", "bash"),
        fenced(suite.strip("\n"), "yaml"),
    ]
    if names:
        sentence = "Environment variables were set for the engine and are not shown: {names}."
        lines.append(say(sentence, names=", ".join(code(n) for n in names)))
    return "\n\n".join(lines)


def _suite(run: RunView, subject: Subject) -> tuple[str, list[str]]:
    """The suite of these variants without what the defaults say, and the environment variables that are left out."""
    suite = {**run.facts.suite, "baseline": run.baseline}
    suite["variants"] = {name: v for name, v in suite["variants"].items() if name in run.facts.variants}
    names: set[str] = set()
    for place in (suite.get("engine") or {}, *((v or {}).get("engine") or {} for v in suite["variants"].values())):
        names |= set(place.get("env") or {})
    whole = _without_env(public.value(suite))
    if subject.base_model:
        whole["model"] = subject.base_model
    try:
        known = Suite.model_validate(whole)
        short = known.model_dump(mode="json", exclude_defaults=True)
        whole = short if Suite.model_validate(short) == known else whole
    except ValidationError:
        pass  # a suite of an older version: shown as it is
    return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120), sorted(names)


def _without_env(held: Any) -> Any:
    if isinstance(held, dict):
        return {key: _without_env(value) for key, value in held.items() if key != "env"}
    return held


def code(text: str) -> str:
    """A code span."""
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"


def fenced(text: str, language: str) -> str:
    """A code block that no line of the text can end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def escaped(text: str) -> str:
    """Text in which no character is markup, on one line."""
    text = public.text(text)
    for mark in "\\`*_<>[]|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
