"""The demo's questions: reproducible, held out properly, and answered by what was drawn."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from hashlib import sha256

import pytest

from harness.demo import data, drawing, phrases

COUNT = 100


def fingerprint(question: data.Question) -> tuple[str, str, str, str]:
    pixels = sha256(question.image.tobytes()).hexdigest()
    return question.id, question.question, question.answer, pixels


@pytest.fixture(scope="module")
def made() -> dict[str, list[data.Question]]:
    return {split: list(data.generate(split, COUNT)) for split in data.SPLITS}


def test_same_seed_same_questions(made):
    again = [fingerprint(q) for q in data.generate("test", 40)]
    assert again == [fingerprint(q) for q in made["test"][:40]]


def test_the_held_out_set_is_the_one_the_model_card_speaks_of(made):
    """A change here changes what the shipped model is asked: train it anew and renew its figures."""
    text = "\n".join(f"{q.question} {q.answer}" for q in made["test"][:50])
    assert sha256(text.encode()).hexdigest()[:16] == "659bf15626785f62"


def test_another_seed_other_pictures(made):
    other = {fingerprint(q)[3] for q in data.generate("test", 20, seed=1)}
    assert other.isdisjoint(fingerprint(q)[3] for q in made["test"])


def test_a_question_does_not_depend_on_the_others(made):
    for index in (97, 4, 61):
        alone, _ = data.make_question("train", 0, index)
        assert fingerprint(alone) == fingerprint(made["train"][index])


def test_splits_share_no_picture_and_no_handwriting(made):
    pictures = {split: {fingerprint(q)[3] for q in questions} for split, questions in made.items()}
    assert len(pictures["train"]) == len(pictures["test"]) == COUNT
    assert pictures["train"].isdisjoint(pictures["test"])
    sources = {split: {s for q in questions for s in q.digit_sources} for split, questions in made.items()}
    assert max(sources["train"]) < drawing.TRAIN_SOURCES <= min(sources["test"])


def test_skills_and_languages_are_even(made):
    counts = Counter((q.skill, q.language) for q in made["test"])
    assert counts == {(skill, language): COUNT // 10 for skill in data.SKILLS for language in ("en", "zh")}
    assert data.TEST_COUNT % 10 == 0


def test_chosen_skills_only():
    questions = list(data.generate("test", 8, skills=("count", "chart")))
    assert [q.skill for q in questions] == ["count", "chart"] * 4
    assert [q.language for q in questions] == ["en", "en", "zh", "zh"] * 2


def test_language_of_the_words(made):
    for question in made["train"]:
        assert bool(re.search("[\u4e00-\u9fff]", question.question)) == (question.language == "zh")
        if question.skill in ("objects", "count"):
            assert bool(re.search("[a-z]", question.answer)) == (question.language == "en")


def test_pictures_are_rgb_of_one_size(made):
    assert all(q.image.mode == "RGB" and q.image.size == (drawing.SIZE, drawing.SIZE) for q in made["test"])


def test_digit_answers_are_what_the_writers_wrote(made):
    from sklearn.datasets import load_digits

    written = load_digits().target
    for question in (q for q in made["test"] if q.skill == "digits"):
        digits = [int(written[s]) for s in question.digit_sources]
        text = "".join(map(str, digits))
        assert question.answer in (text, text[::-1], "+".join(text) + f"={sum(digits)}")


def test_answers_tell_what_the_scene_holds():
    for index in range(100):
        question, values = data.make_question("train", 3, index)
        numbers = [int(n) for n in re.findall(r"\d+", question.answer)]
        if question.skill == "text":
            assert question.answer in ("".join(drawing.CHARACTERS[v] for v in values[::step]) for step in (1, -1))
        elif question.skill == "objects":
            assert len(re.split("、|, ", question.answer)) == len(values) // 2
        elif question.skill == "count":
            assert set(numbers) <= {*values, sum(values)}
        elif question.skill == "chart" and "=" in question.answer:
            high, low, difference = numbers
            assert {high, low} <= set(values) and high - low == difference >= 0
        elif question.skill == "chart":
            assert numbers in ([*values], [max(values), min(values)])


def test_pictures_show_the_values():
    """In a plain scene, a bar of the full value reaches higher than one of a quarter of it."""
    import numpy as np

    for index in range(40):
        scene = drawing.chart_scene(np.random.default_rng(index), level=0.0)
        pixels = np.asarray(scene.image, dtype=float)
        saturation = pixels.max(2) - pixels.min(2)
        width = drawing.SIZE / len(scene.values)
        inked = [saturation[:, round(k * width) : round((k + 1) * width)].sum() for k in range(len(scene.values))]
        if max(scene.values) > 4 * min(scene.values):
            assert inked[int(np.argmax(scene.values))] > inked[int(np.argmin(scene.values))]


def test_every_kind_of_question_is_worded_in_both_languages():
    for skill, kinds in phrases.KINDS.items():
        for kind in kinds:
            assert all(len(phrases.QUESTIONS[skill, kind, language]) >= 2 for language in ("en", "zh"))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown split"):
        next(data.generate("validation", 1))
    with pytest.raises(ValueError, match="unknown skill"):
        next(data.generate("test", 1, skills=("sums",)))


def test_data_loads_no_deep_learning_library():
    heavy = "{'torch', 'transformers', 'tokenizers'}"
    code = f"import sys, harness.demo.data; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
