"""Task names resolved from files alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.util.errors import Refused
from harness.workloads import tasks
from tests.helpers.records import ROOT

DEMO = [f"demo_vl_{skill}" for skill in ("digits", "text", "objects", "count", "chart")]


def test_a_group_is_its_tasks_each_once():
    found = tasks.find(["demo_vl", "demo_vl_text"])
    assert [t.name for t in found] == DEMO
    assert all(t.images for t in found)


def test_nothing_heavy_is_imported_for_it():
    code = (
        "import sys; from harness.workloads import tasks; found = tasks.find(['demo_vl'])\n"
        "print(len(found), sorted({'lm_eval', 'datasets', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "5 []", done.stderr


def test_lm_evals_own_tasks_are_found_with_their_groups():
    names = [t.name for t in tasks.find(["mmmu_val_art_and_design"])]
    assert {"mmmu_val_art", "mmmu_val_music"} <= set(names)
    assert tasks.find(["mmmu_val_art"])[0].images
    assert not tasks.find(["gsm8k"])[0].images


def test_unknown_tasks_are_all_named_with_the_nearest_name():
    with pytest.raises(Refused) as caught:
        tasks.find(["demo_vl_txt", "mmmu_vall"])
    told = [str(f) for f in caught.value.faults]
    assert "unknown task 'demo_vl_txt'; did you mean 'demo_vl_text'?" in told[0]
    assert "did you mean 'mmmu_val" in told[1]


def test_a_folder_of_ones_own_and_its_fingerprint(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: mine\ndoc_to_image: [image]\nmetadata: {chance: 0.25}\n")
    (mine,) = tasks.find(["mine"], tmp_path)
    assert (mine.images, mine.chance) == (True, 0.25)
    before = mine.fingerprint()
    (tmp_path / "mine.yaml").write_text("task: mine\ndoc_to_image: [image]\ndoc_to_text: other\n")
    assert mine.fingerprint() != before
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "two.json").write_text("[1]")
    beside = mine.fingerprint()
    (tmp_path / "data" / "two.json").write_text("[2]")
    assert mine.fingerprint() != beside
    with pytest.raises(Refused, match="is no folder"):
        tasks.find(["mine"], tmp_path / "none")


def test_data_in_another_folder_and_odd_task_files(tmp_path):
    own, data = tmp_path / "own", tmp_path / "elsewhere.json"
    own.mkdir()
    data.write_text("[1]")
    (own / "mine.yaml").write_text(
        f"task: mine\ndataset_kwargs: {{data_files: {{test: {data}}}}}\nmetadata: {{chance: lots}}\n"
    )
    (own / "self.yaml").write_text("include: self.yaml\ntask: itself\n")
    (mine,) = tasks.find(["mine"], own)
    before = mine.fingerprint()
    data.write_text("[2]")
    assert mine.fingerprint() != before and mine.chance is None
    assert tasks.find(["itself"], own)[0].name == "itself"
