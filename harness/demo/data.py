"""Questions with pictures for the embedded demo model: made from a seed, the same everywhere, no files.

Question i of a split is a function of (split, seed, i) and the skills asked for, so questions can be made in any
order and in parallel. Needs numpy, Pillow and scikit-learn (its bundled handwritten digits), nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from harness.demo import drawing, phrases

SKILLS = ("digits", "text", "objects", "count", "chart")
SPLITS = ("train", "test")
TEST_COUNT = 3000
"""Questions in the default held-out set: 600 a skill, half English, half Chinese."""


@dataclass(frozen=True)
class Question:
    """One question about one picture, with the exact answer that counts as right."""

    id: str
    skill: str
    language: str
    """"en" or "zh", of the question and of the answer's words."""
    question: str
    answer: str
    image: Image.Image
    """RGB, 96x96 pixels."""
    digit_sources: tuple[int, ...]
    """Indices of the handwritten digits drawn, into sklearn.datasets.load_digits(); empty for other skills."""


def generate(split: str, count: int, seed: int = 0, skills: Sequence[str] = SKILLS) -> Iterator[Question]:
    """Questions 0 .. count - 1 of a split. Raises ValueError for an unknown split or skill."""
    for index in range(count):
        yield make_question(split, seed, index, skills)[0]


def make_question(split: str, seed: int, index: int, skills: Sequence[str] = SKILLS) -> tuple[Question, tuple[int, ...]]:
    """Question `index` alone, and the values its picture holds (see drawing.Scene)."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
    skill = skills[index % len(skills)]
    if skill not in SKILLS:
        raise ValueError(f"unknown skill {skill!r}: one of {', '.join(SKILLS)}")
    language = ("en", "zh")[index // len(skills) % 2]
    rng = np.random.default_rng((SPLITS.index(split), seed, index))
    scene = _draw(rng, skill, split)
    question, answer = phrases.ask(rng, skill, language, scene.values)
    name = f"{split}-{seed}-{index:06d}-{skill}-{language}"
    return Question(name, skill, language, question, answer, scene.image, scene.digit_sources), scene.values


def level(split: str, seed: int, index: int) -> float:
    """How hard question `index` is drawn, 0..1."""
    return float(np.random.default_rng((SPLITS.index(split), seed, index)).random())


def _draw(rng: np.random.Generator, skill: str, split: str) -> drawing.Scene:
    hardness = float(rng.random())
    if skill == "digits":
        return drawing.digits_scene(rng, hardness, split)
    if skill == "text":
        return drawing.text_scene(rng, hardness)
    if skill == "objects":
        return drawing.objects_scene(rng, hardness)
    if skill == "count":
        return drawing.count_scene(rng, hardness)
    return drawing.chart_scene(rng, hardness)
