"""How often verdicts and intervals are right, by simulation: `python -m benchmarks.verdicts OUT.json`.

No model and no engine: paired scores are drawn with a known truth and judged as the harness judges them. Two arms answer
`pictures` with `each` questions; a question changes with probability `changed`; on a share `icc` of the pictures all that
changes goes one way. The seed is fixed, so that the same code gives the same file.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.compare import stats
from harness.compare.answers import judged
from harness.util import files
from harness.util.progress import Reporter

TRIALS = 300
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


def main(out: Path) -> None:
    """Run all of them and write the file."""
    found = dict[str, Any]()
    with Reporter() as report:
        for part in (coverage, fractions, families, picks):
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
        f"{max(r['false picks'] for r in found['picks']):.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT.json", help="the file to write")
    output = parser.parse_args().output
    if why := "is a folder" if output.is_dir() else files.unwritable(output.parent):
        parser.error(f"{output}: cannot be written: {why}; name a file")
    main(output)
