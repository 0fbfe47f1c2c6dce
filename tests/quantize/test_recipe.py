from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from quantize.methods import METHODS
from quantize.recipe import Job, Product
from tests.helpers.recipes import recipe


def test_the_defaults_are_the_seeds_of_the_project():
    default = recipe()
    assert (default.method, default.num_bits, default.group_size, default.observer, default.symmetric) == (
        "awq",
        4,
        128,
        "mse",
        True,
    )
    assert [len(m.balance) for m in default.mappings] == [3, 2, 1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gruop_size": 128}, "Extra inputs"),
        ({"group_size": 0}, "neither positive nor -1"),
        ({"group_size": -2}, "neither positive nor -1"),
        ({"method": "noise"}, "needs noise_std"),
        ({"noise_std": 0.1}, "belongs to method noise"),
        ({"mappings": []}, "at least one mapping"),
        ({"num_bits": 16}, "less than or equal to 8"),
        ({"method": "gguf"}, "its method is none of 'awq', 'rtn', 'gptq', .* or 'noise'"),
        ({"method": "fp8", "group_size": 128}, "group_size belongs to method awq or rtn or gptq, not to fp8"),
        ({"smoothing": 0.5}, "smoothing belongs to method int8"),
        ({"method": "int8", "smoothing": 1.5}, "less than 1"),
        ({"method": "gptq", "num_bits": 3}, "4 or 8"),
        ({"method": "fp8", "scales": "each"}, "'dynamic', 'static' or 'block'"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, object], said: str):
    with pytest.raises(ValidationError, match=said):
        recipe(**given)


def test_cells_that_differ_in_the_observer_share_a_search():
    assert recipe(observer="mse").search_key() == recipe(observer="minmax").search_key()
    for other in ({"group_size": 64}, {"symmetric": False}, {"num_bits": 8}, {"n_grid": 10}, {"duo_scaling": False}):
        assert recipe().search_key() != recipe(**other).search_key()


def test_only_what_reads_data_calibrates():
    assert recipe().calibrates
    assert not recipe(method="rtn").calibrates
    assert recipe(method="rtn", observer="imatrix_mse").calibrates
    assert not recipe(method="noise", noise_std=0.1).calibrates


@pytest.mark.parametrize("field", ["name", "output"])
def test_two_cells_never_share_a_name_or_an_output(field: str):
    a = {"name": "a", "output": "/x/a"}
    b = {"name": "b", "output": "/x/b"} | {field: a[field]}
    with pytest.raises(ValidationError, match=f"two cells have the {field}"):
        Job.model_validate({"source": "/s", "cells": [a, b]})


def test_every_field_says_what_it_is():
    for model in (*METHODS, Product, Job):
        assert all(field.description for field in model.model_fields.values()), model


def test_recipes_import_nothing_heavy():
    code = (
        "import sys, quantize.recipe, quantize.fit, harness.checkpoints.verify, harness.checkpoints.readable; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'llmcompressor', 'compressed_tensors')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
