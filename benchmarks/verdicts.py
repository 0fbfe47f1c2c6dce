"""How often verdicts and intervals are right, by simulation: `python -m benchmarks.verdicts OUT.json`.

No model and no engine: paired scores are drawn with a known truth and judged as the harness judges them. Two arms answer
`pictures` with `each` questions; a question changes with probability `changed`; on a share `icc` of the pictures all that
changes goes one way. The seed is fixed, so that the same code gives the same file.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.compare import ratios, sequential, stats
from harness.compare.answers import judged
from harness.util import files
from harness.util.progress import Reporter

TRIALS = 300
LIMIT = 0.98
"""The recovery that must be kept."""
SPEED_LIMIT = 0.95
"""The ratio that a gate on speed allows."""
Kinds = Counter[tuple[float, float, int]]


def drawn(rng: np.random.Generator, pictures: int, each: int, accuracy: float, changed: float, icc: float) -> Kinds:
    """One Run without a true loss: as many changes to the better as to the worse are to be expected."""
    before = rng.random((pictures, each)) < accuracy
    together = rng.random(pictures) < icc
    one_way = np.where(rng.random(pictures) < 0.5, -1.0, 1.0)
    alone = np.where(rng.random((pictures, each)) < 0.5, -1.0, 1.0)
    moves = (rng.random((pictures, each)) < changed) * np.where(together[:, None], one_way[:, None], alone)
    # The direction is drawn before the answer: an answer that cannot move that way was the other one.
    before = np.where(moves < 0, True, np.where(moves > 0, False, before))
    return kinds_of(before.sum(1), (before + moves).sum(1), each)


def kinds_of(before: NDArray[Any], after: NDArray[Any], each: int) -> Kinds:
    """Sums over pictures, as `stats.bootstrap` takes them."""
    return Counter((float(a), float(b), each) for a, b in zip(before, after, strict=True))


def coverage() -> list[dict[str, Any]]:
    """Coverage of the interval of the difference, whose truth is 0, and how often a difference is shown."""
    rows = []
    grid = itertools.product((50, 200, 600, 3000), ((1, 0.0), (5, 0.0), (5, 0.3)), (0.3, 0.885), (0.005, 0.025, 0.1))
    for number, (n, (each, icc), accuracy, changed) in enumerate(grid):
        rng = np.random.default_rng(number)
        held = shown = 0
        for _ in range(TRIALS):
            found = judged(drawn(rng, n // each, each, accuracy, changed, icc), fractions=False)
            held += found.difference.low <= 0 <= found.difference.high
            shown += found.p_value < 0.05
        point = {"questions": n, "a picture": each, "icc": icc, "accuracy": accuracy, "changed": changed}
        rows.append(point | {"coverage": held / TRIALS, "false verdicts": shown / TRIALS})
    return rows


def fractions() -> list[dict[str, Any]]:
    """How often a difference is shown between scores that are fractions, skewed, with a true mean of 0."""
    rows = []
    for number, (n, often, small) in enumerate(itertools.product((200, 900, 3000), (0.02, 0.08), (0.05, 0.2))):
        rng = np.random.default_rng(1000 + number)
        shown = signs = 0
        for _ in range(TRIALS):
            draw = rng.random(n)
            gain, loss = draw < often, draw > 1 - often * small
            before = np.where(loss, 1.0, 0.5)
            found = judged(kinds_of(before, before + small * gain - loss, 1), fractions=True)
            shown += found.p_value < 0.05
            signs += stats.sign_flips(found.changed) < 0.05 if found.changed else 0
        point = {"questions": n, "gains": often, "of size": small}
        rows.append(point | {"false verdicts": shown / TRIALS, "by signs alone": signs / TRIALS})
    return rows


def families() -> list[dict[str, Any]]:
    """How often some row of a table without any loss says loss or gain, with and without Holm."""
    rows = []
    for number, (variants, tasks) in enumerate(((1, 6), (6, 6))):
        rng = np.random.default_rng(2000 + number)
        plain = held = 0
        for _ in range(TRIALS):
            ps = [judged(drawn(rng, 600, 1, 0.885, 0.05, 0.0), False).p_value for _ in range(variants * tasks)]
            plain += min(ps) < 0.05
            held += min(stats.holm(ps)) < 0.05
        rows.append({"variants": variants, "tasks": tasks, "some row, Holm": held / TRIALS, "without": plain / TRIALS})
    return rows


def picks() -> list[dict[str, Any]]:
    """How often some of several variants, whose true recovery is the limit, has a lower bound above it."""
    rows = []
    for number, variants in enumerate((1, 12)):
        rng = np.random.default_rng(3000 + number)
        plain = held = 0
        for _ in range(TRIALS):
            found = [judged(lossy(rng, 1500, 0.885, 0.98, 0.03), False).recovery for _ in range(variants)]
            plain += any(r.low > 0.98 for r in found)
            held += any(stats.among(r, variants).low > 0.98 for r in found)
        rows.append({"variants": variants, "false picks": held / TRIALS, "one by one": plain / TRIALS})
    return rows


def lossy(rng: np.random.Generator, n: int, accuracy: float, recovery: float, gained: float) -> Kinds:
    """Single questions of an arm that keeps `recovery` of the baseline's accuracy; gained: share of questions it gains."""
    before = rng.random(n) < accuracy
    draw, lost = rng.random(n), (1 - recovery) + gained / accuracy
    after = np.where(before, draw >= lost, draw < gained / (1 - accuracy))
    return kinds_of(before.astype(float), after.astype(float), 1)


def gates() -> list[dict[str, Any]]:
    """How often a gate on several variants and tasks is wrong: passes a variant whose recovery is the limit, fails without
    any loss."""
    rows = []
    for number, (variants, tasks) in enumerate(((1, 1), (6, 6))):
        rng = np.random.default_rng(4000 + number)
        passed = failed = 0
        for _ in range(TRIALS):
            passed += judged(lossy(rng, 1500, 0.885, LIMIT, 0.03), False).recovery.low > LIMIT
            kept = (judged(drawn(rng, 300, 1, 0.885, 0.05, 0.0), False).recovery for _ in range(variants * tasks))
            failed += any(recovery.high < LIMIT for recovery in kept)
        rows.append({"variants": variants, "tasks": tasks, "false passes": passed / TRIALS, "false fails": failed / TRIALS})
    return rows


def speed() -> list[dict[str, Any]]:
    """How often an equal arm is called slower, and what the hint's number of passes is worth.

    A first Run of `passes` starts and three trials each gives the hint for a limit of 5 %; a second one of as many starts as
    it names catches a slow-down of twice the limit, and passes an arm that is equal.
    """
    rows = []
    for number, (between, passes) in enumerate(itertools.product((0.005, 0.03), (1, 2, 3, 5))):
        rng = np.random.default_rng(5000 + number)
        slower = trials_alone = caught = passed = 0
        hints = []
        for _ in range(10 * TRIALS):
            one, two = (starts(rng, passes, between) for _ in range(2))
            slower += ratios.of_starts(one, two)[0].interval().high < 1
            trials_alone += ratios.of_values(list(itertools.chain(*one)), list(itertools.chain(*two))).interval().high < 1
            needed = ratios.starts_needed(*ratios.spread_of(one, two), -math.log(SPEED_LIMIT))
            hints.append(needed)
            before = starts(rng, needed, between)
            slow, equal = (starts(rng, needed, between, level) for level in (2 * SPEED_LIMIT - 1, 1.0))
            caught += ratios.of_starts(slow, before)[0].interval().high < SPEED_LIMIT
            passed += ratios.of_starts(equal, before)[0].interval().low > SPEED_LIMIT
        shares = {"false slower": slower, "by trials alone": trials_alone, "caught": caught, "passed": passed}
        point = {"between starts": between, "passes": passes, "hint, median": float(np.median(hints))}
        rows.append(point | {name: count / (10 * TRIALS) for name, count in shares.items()})
    return rows


def starts(
    rng: np.random.Generator, passes: int, between: float, level: float = 1.0, within: float = 0.01
) -> list[list[float]]:
    """Three trials on each of `passes` starts; between, within: standard deviations of logarithms."""
    means = rng.normal(math.log(level), between, passes)
    return [np.exp(rng.normal(mean, within, 3)).tolist() for mean in means]


def choices() -> list[dict[str, Any]]:
    """How often the interval of the setting that won holds its truth: every setting is 3 % faster than the first."""
    rows = []
    for number, settings in enumerate((1, 6)):
        rng = np.random.default_rng(6000 + number)
        held = plain = 0
        told = []
        for _ in range(10 * TRIALS):
            first = starts(rng, 3, 0.02)
            won = max((ratios.of_starts(starts(rng, 3, 0.02, 1.03), first)[0] for _ in range(settings)), key=_middle)
            wide, own = won.interval(1 - 0.05 / settings), won.interval()
            held += wide.low <= 1.03 <= wide.high
            plain += own.low <= 1.03 <= own.high
            told.append(won.interval().value)
        shares = {"coverage": held / (10 * TRIALS), "one by one": plain / (10 * TRIALS)}
        rows.append({"settings": settings, "told, mean": float(np.mean(told))} | shares)
    return rows


def early() -> list[dict[str, Any]]:
    """Verdicts before the last question: what they say of a candidate that keeps `recovery`, and after how many questions. The
    fixed rule is asked at the end with what is left of the error, and once more by itself with all of it."""
    rows = []
    for number, (n, recovery) in enumerate(itertools.product((3000, 12000), (1.0, 0.98, 0.96, 0.9))):
        rng = np.random.default_rng(7000 + number)
        counts, asked = Counter[str](), []
        for _ in range(TRIALS):
            before, after = _arms(rng, n, 0.885, 0.025, recovery)
            (found,) = sequential.decided([(before, after, np.ones(n))], LIMIT)
            fixed = judged(kinds_of(before, after, 1), fractions=False).recovery
            last = _level(fixed)
            said = found.outcome or ("pass" if last.low > LIMIT else "fail" if last.high < LIMIT else "undecided")
            counts[said] += 1
            counts["fixed rule " + ("pass" if fixed.low > LIMIT else "fail" if fixed.high < LIMIT else "undecided")] += 1
            asked.append(found.questions)
        shares = {name: counts[name] / TRIALS for name in ("pass", "fail", "fixed rule pass", "fixed rule fail")}
        point = {"questions": n, "recovery": recovery, "asked": float(np.mean(asked)), "90th": float(np.quantile(asked, 0.9))}
        rows.append(point | shares)
    return rows


def _arms(rng: np.random.Generator, n: int, accuracy: float, changed: float, recovery: float) -> tuple[Any, Any]:
    """Scores of single questions of two arms, the second of which keeps `recovery`; changed: the share of questions that
    differ, or the loss where that is more."""
    loss = (1 - recovery) * accuracy
    lost, gained = (max(changed, loss) + loss) / 2, (max(changed, loss) - loss) / 2
    before, draw = rng.random(n) < accuracy, rng.random(n)
    after = np.where(before, draw >= lost / accuracy, draw < gained / (1 - accuracy))
    return before.astype(float), after.astype(float)


def _level(interval: stats.Interval) -> stats.Interval:
    """A 95 % interval with 1.5 % left out on each side in place of 2.5 %, widened as a normal one."""
    factor = 2.170090 / 1.959964
    low, high = (interval.value + factor * (bound - interval.value) for bound in (interval.low, interval.high))
    return stats.Interval(interval.value, low, high, 0.97)


def _middle(ratio: ratios.LogRatio) -> float:
    return ratio.middle


def main(out: Path) -> None:
    """Run all of them and write the file."""
    found = dict[str, Any]()
    with Reporter() as report:
        for part in (coverage, fractions, families, picks, gates, speed, choices, early):
            report.stage(f"simulating {part.__name__}")
            found[part.__name__] = part()
    files.write_json(out, {"trials": TRIALS} | found)
    print(summary(found))


def summary(found: Mapping[str, Any]) -> str:
    """The worst of each."""
    cover, shares = found["coverage"], found["fractions"]
    return (
        f"coverage {min(r['coverage'] for r in cover):.3f} to {max(r['coverage'] for r in cover):.3f}, false verdicts at most "
        f"{max(r['false verdicts'] for r in cover):.3f}; fractions at most {max(r['false verdicts'] for r in shares):.3f} "
        f"(signs alone {max(r['by signs alone'] for r in shares):.3f}); a table of rows at most "
        f"{max(r['some row, Holm'] for r in found['families']):.3f}; false picks at most "
        f"{max(r['false picks'] for r in found['picks']):.3f}; gates pass falsely at most "
        f"{max(r['false passes'] for r in found['gates']):.3f}, fail falsely at most "
        f"{max(r['false fails'] for r in found['gates']):.3f}; "
        f"slower at most {max(r['false slower'] for r in found['speed']):.3f} "
        f"(trials alone {max(r['by trials alone'] for r in found['speed']):.3f}); the hint catches in "
        f"{min(r['caught'] for r in found['speed']):.3f} or more; a winner's interval holds in "
        f"{min(r['coverage'] for r in found['choices']):.3f}; an early verdict passes falsely at most "
        f"{max(r['pass'] for r in found['early'] if r['recovery'] <= LIMIT):.3f}, fails falsely at most "
        f"{max(r['fail'] for r in found['early'] if r['recovery'] >= LIMIT):.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT.json", help="the file to write")
    output = parser.parse_args().output
    if why := "is a folder" if output.is_dir() else files.unwritable(output.parent):
        parser.error(f"{output}: cannot be written: {why}; name a file")
    main(output)
