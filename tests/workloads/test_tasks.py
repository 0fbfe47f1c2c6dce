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


OWN = """\
task: {name}
custom_dataset: !function data.load
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: {limit}}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture
def grouped(tmp_path):
    """A folder with two tasks and groups that hold them in every form that lm-eval reads."""
    (tmp_path / "data.py").write_text(
        "import datasets\ndef load(**_):\n"
        "    return {'test': datasets.Dataset.from_list([{'id': 'd', 'question': 'q', 'answer': 'a'}])}\n"
    )
    for name, limit in (("one", 8), ("two", 9)):
        (tmp_path / f"{name}.yaml").write_text(OWN.format(name=name, limit=limit))
    (tmp_path / "plain.yaml").write_text("group: plain\ntask: [one, two]\n")
    (tmp_path / "nested.yaml").write_text("group: nested\ntask:\n- group: inner\n  task: [one]\n- plain\n")
    (tmp_path / "says.yaml").write_text("group: says\ngeneration_kwargs: {until: [], max_gen_toks: 3}\ntask: [one, two]\n")
    entry = "group: entry\ntask:\n- task: one\n  generation_kwargs: {until: [], max_gen_toks: 4}\n- two\n"
    (tmp_path / "entry.yaml").write_text(entry)
    body = OWN.format(name="born", limit=5).replace("{{{{", "{{").replace("!function data.load", "!function data.load")
    inline = "".join(f"  {line}\n" for line in body.splitlines())
    (tmp_path / "inline.yaml").write_text(f"group: inline\ntask:\n- {inline.lstrip()}- two\n")
    (tmp_path / "broken.yaml").write_text("group: broken\ntask:\n- task: new\n  include: one.yaml\n")
    (tmp_path / "lost.yaml").write_text("group: lost\ntask: [oen]\n")
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "limits"),
    [
        ("plain", {"one": 8, "two": 9}),
        ("nested", {"one": 8, "two": 9}),
        ("says", {"says::one": 3, "says::two": 3}),
        ("entry", {"entry::one": 4, "two": 9}),
        ("inline", {"inline::born": 5, "two": 9}),
        ("entry::one", {"entry::one": 4}),
    ],
)
def test_groups_are_read_as_lm_eval_reads_them(grouped, asked, limits):
    from harness.workloads.accuracy import AccuracySpec
    from harness.workloads.lm_eval.questions import load

    found = tasks.find([asked], grouped)
    assert [task.name for task in found] == list(limits)
    spec = AccuracySpec(tasks=(asked,), include_path=grouped)
    assert {name: load(name, spec).answer_tokens(spec) for name in limits} == limits


def test_what_a_group_says_is_part_of_the_fingerprint(grouped):
    plain, said = (tasks.find([name], grouped)[0] for name in ("one", "says::one"))
    before = said.fingerprint()
    assert before != plain.fingerprint()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("broken", "group broken defines 'new' in its own list with `include`, which lm-eval"),
        ("lost", "unknown task 'oen'; did you mean 'one'?"),
        ("entry::oen", "unknown task 'entry::oen'; did you mean 'entry::one'?"),
    ],
)
def test_groups_that_cannot_be_read(grouped, asked, told):
    with pytest.raises(Refused) as refused:
        tasks.find([asked], grouped)
    assert told in str(refused.value.faults[0])


def test_a_task_that_a_group_changes_is_asked_as_it_says(grouped, tmp_path):
    from harness.workloads.accuracy import Accuracy, AccuracySpec
    from tests.helpers.chat_server import Server, engine_of, measured

    server = Server(lambda *_: ("a", "stop"))
    spec = AccuracySpec(tasks=("says",), include_path=grouped, concurrency=2)
    got = measured(Accuracy(), engine_of(server, tmp_path), spec, {"task": "says::one"})
    assert got.metrics["score"].value == 1.0 and server.bodies[0]["max_tokens"] == 3
