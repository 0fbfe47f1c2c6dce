"""Words for the demo's scenes: questions in several phrasings and the one right answer, in English and Chinese."""

from __future__ import annotations

import numpy as np

from harness.demo.drawing import CHARACTERS, COLOURS, SHAPES

COLOURS_ZH = ("红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "粉色", "棕色")
SHAPES_ZH = ("圆形", "方形", "三角形", "菱形", "星形", "十字形", "五边形", "六边形")
ORDINALS = ("first", "second", "third", "fourth", "fifth")
NUMERALS_ZH = "一二三四五"

QUESTIONS: dict[tuple[str, str, str], tuple[str, ...]] = {
    ("digits", "read", "en"): (
        "Read the digits from left to right.",
        "Which number is written here?",
        "Write down the handwritten digits.",
    ),
    ("digits", "read", "zh"): ("从左到右读出数字。", "图中写的是什么数?", "写出手写的数字。"),
    ("digits", "reverse", "en"): ("Read the digits from right to left.", "Write the number backwards."),
    ("digits", "reverse", "zh"): ("从右到左读出数字。", "把这个数倒着写出来。"),
    ("digits", "sum", "en"): ("Add up the digits.", "What is the sum of the digits?"),
    ("digits", "sum", "zh"): ("把各位数字相加。", "数字之和是多少?"),
    ("text", "read", "en"): ("Read the code.", "Which characters are printed?", "What does the text say?"),
    ("text", "read", "zh"): ("读出代码。", "印的是哪些字符?", "图中的文字是什么?"),
    ("text", "reverse", "en"): ("Read the code backwards.", "Write the characters from right to left."),
    ("text", "reverse", "zh"): ("倒着读出代码。", "从右到左写出字符。"),
    ("objects", "name", "en"): (
        "Name the objects from left to right.",
        "Which shapes do you see, left to right?",
        "List colour and shape of each object.",
    ),
    ("objects", "name", "zh"): ("从左到右说出各个物体。", "从左到右有哪些图形?", "列出每个物体的颜色和形状。"),
    ("objects", "reverse", "en"): ("Name the objects from right to left.", "List the shapes, right to left."),
    ("objects", "reverse", "zh"): ("从右到左说出各个物体。", "从右到左列出图形。"),
    ("count", "all", "en"): ("How many dots are there?", "Count all the dots.", "What is the number of dots?"),
    ("count", "all", "zh"): ("一共有多少个点?", "数一数所有的点。", "点的数量是多少?"),
    ("count", "colour", "en"): ("How many {0} dots are there?", "Count the {0} dots."),
    ("count", "colour", "zh"): ("有多少个{0}的点?", "数一数{0}的点。"),
    ("count", "list", "en"): ("Count the {0} and the {1} dots.", "How many dots are {0}, how many {1}?"),
    ("count", "list", "zh"): ("分别数出{0}和{1}的点。", "{0}和{1}的点各有多少?"),
    ("chart", "values", "en"): (
        "Read the bars from left to right.",
        "What are the values of the bars?",
        "List the value of each bar.",
    ),
    ("chart", "values", "zh"): ("从左到右读出各柱的值。", "各个柱子的值是多少?", "列出每个柱子的值。"),
    ("chart", "difference", "en"): (
        "How far is the {0} bar from the {1} bar?",
        "What is the difference between the {0} and the {1} bar?",
    ),
    ("chart", "difference", "zh"): ("{0}柱和{1}柱差多少?", "{0}柱与{1}柱的值之差是多少?"),
    ("chart", "extremes", "en"): (
        "What are the highest and the lowest value?",
        "Read the tallest and the shortest bar.",
    ),
    ("chart", "extremes", "zh"): ("最大值和最小值是多少?", "读出最高和最低的柱子。"),
}
"""Phrasings by (skill, kind, language); {0} and {1} are what is asked about."""

KINDS: dict[str, tuple[str, ...]] = {
    "digits": ("read", "read", "reverse", "sum"),
    "text": ("read", "read", "reverse"),
    "objects": ("name", "name", "reverse"),
    "count": ("all", "colour", "list", "list"),
    "chart": ("values", "values", "difference", "extremes"),
}
"""What is asked about a skill's scenes, each entry equally often."""


def ask(rng: np.random.Generator, skill: str, language: str, values: tuple[int, ...]) -> tuple[str, str]:
    """A question about a scene with these `values` (see Scene) and its answer."""
    kind = KINDS[skill][int(rng.integers(len(KINDS[skill])))]
    phrasings = QUESTIONS[skill, kind, language]
    phrasing = phrasings[int(rng.integers(len(phrasings)))]
    chinese = language == "zh"
    if skill == "digits":
        return phrasing, _digits(kind, values)
    if skill == "text":
        return phrasing, "".join(CHARACTERS[v] for v in (values if kind == "read" else values[::-1]))
    if skill == "objects":
        return phrasing, _objects(kind, chinese, values)
    if skill == "count":
        return _count(rng, kind, chinese, phrasing, values)
    return _chart(rng, kind, chinese, phrasing, values)


def _digits(kind: str, values: tuple[int, ...]) -> str:
    if kind == "sum":
        return "+".join(map(str, values)) + f"={sum(values)}"
    return "".join(map(str, values if kind == "read" else values[::-1]))


def _objects(kind: str, chinese: bool, values: tuple[int, ...]) -> str:
    pairs = list(zip(values[::2], values[1::2], strict=True))
    if kind == "reverse":
        pairs.reverse()
    if chinese:
        return "、".join(COLOURS_ZH[colour] + SHAPES_ZH[shape] for colour, shape in pairs)
    return ", ".join(f"{COLOURS[colour]} {SHAPES[shape]}" for colour, shape in pairs)


def _count(rng: np.random.Generator, kind: str, chinese: bool, phrasing: str, values: tuple[int, ...]) -> tuple[str, str]:
    names = COLOURS_ZH if chinese else COLOURS
    if kind == "all":
        return phrasing, f"{sum(values)}个点" if chinese else f"{sum(values)} dots"
    present = [colour for colour, count in enumerate(values) if count]
    if kind == "list" and len(present) > 1:
        first, second = (present[int(i)] for i in rng.permutation(len(present))[:2])
        parts = [f"{names[c]}{values[c]}个" if chinese else f"{names[c]} {values[c]}" for c in (first, second)]
        return phrasing.format(names[first], names[second]), ("、" if chinese else ", ").join(parts)
    if kind == "list":  # only one colour turned out to be there
        phrasings = QUESTIONS["count", "colour", "zh" if chinese else "en"]
        phrasing = phrasings[int(rng.integers(len(phrasings)))]
    # One question in eight asks for a colour that may be absent, so that zero is an answer too.
    colour = int(rng.integers(len(names))) if rng.random() < 0.125 else present[int(rng.integers(len(present)))]
    answer = f"{values[colour]}个{names[colour]}的点" if chinese else f"{values[colour]} {names[colour]} dots"
    return phrasing.format(names[colour]), answer


def _chart(rng: np.random.Generator, kind: str, chinese: bool, phrasing: str, values: tuple[int, ...]) -> tuple[str, str]:
    comma = "、" if chinese else ", "
    if kind == "values":
        return phrasing, comma.join(map(str, values))
    if kind == "extremes":
        return phrasing, f"{max(values)}{comma}{min(values)}"
    first, second = sorted(int(i) for i in rng.permutation(len(values))[:2])
    names = [f"第{NUMERALS_ZH[i]}个" if chinese else ORDINALS[i] for i in (first, second)]
    high, low = max(values[first], values[second]), min(values[first], values[second])
    return phrasing.format(*names), f"{high}-{low}={high - low}"
