"""The suite file: what it says wrong is told with file, line and the nearest right name."""

from __future__ import annotations

import pytest

from harness.suite import yaml_faults
from harness.suite.schema import Suite, load_suite
from harness.util.errors import Fault, Refused, condensed
from harness.workloads import workload_names
from tests.helpers.records import ROOT

GOOD = """\
name: s
model: demo
variants:
  bf16: {}
  int4:
    recipe:
      group_size: 128
workloads:
  accuracy:
    tasks: [demo_vl]
"""


def faults(path, *overrides: str) -> list[str]:
    with pytest.raises(Refused) as caught:
        load_suite(path, overrides)
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize("path", sorted((ROOT / "suites").rglob("*.yaml")), ids=lambda p: p.name)
def test_every_suite_that_ships_is_right(path):
    assert load_suite(path).name


def test_a_misspelt_key_names_file_line_and_the_nearest_key(write_suite):
    path = write_suite(GOOD.replace("group_size", "gruop_size"))
    assert faults(path) == [f"{path}:7: unknown key 'variants.int4.recipe.gruop_size'; did you mean 'group_size'?"]


def test_several_faults_are_told_together(write_suite):
    path = write_suite(GOOD.replace("tasks: [demo_vl]", "tasks: demo_vl\n    concurency: 4") + "engin: {}\n")
    told = "\n".join(faults(path))
    assert "did you mean 'concurrency'?" in told
    assert "did you mean 'engine'?" in told
    assert ":10: workloads.accuracy.tasks is 'demo_vl'" in told


def test_an_unknown_workload_is_named(write_suite):
    assert (
        "unknown key 'workloads.acuracy'; did you mean 'accuracy'?"
        in faults(write_suite(GOOD.replace("  accuracy:", "  acuracy:")))[0]
    )


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("group_size: 128", "group_size: many", "group_size is 'many'"),
        ("group_size: 128", "method: noise", "method noise needs noise_std"),
        ("bf16: {}", "b16: {}", "baseline 'bf16' is not among the variants; did you mean 'b16'?"),
        ("name: s", "name: a/b", "a name is used for files"),
        ("tasks: [demo_vl]", "tasks: []", "tasks"),
        ("bf16: {}", "bf16: {checkpoint: /x, recipe: {}}", "one of recipe, checkpoint and run, not recipe and checkpoint"),
        ("model: demo", "model: demo\nmodel: demo", "the key 'model' stands twice"),
        ("name: s", "name: [", "is not YAML"),
    ],
)
def test_wrong_values(write_suite, before, after, told):
    found = faults(write_suite(GOOD.replace(before, after)))
    assert told in "\n".join(found)
    assert all(":" in line for line in found)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_file_that_holds_no_mapping(write_suite, text):
    assert "holds no mapping" in faults(write_suite(text))[0]


def test_files_that_cannot_be_read(tmp_path):
    assert "No such file" in faults(tmp_path / "none.yaml")[0]
    assert "is a folder" in faults(tmp_path)[0]
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in faults(tmp_path / "bytes.yaml")[0]


def test_a_grid_is_every_combination_beside_the_named_variants(write_suite):
    path = write_suite(GOOD + "grid:\n  group_size: [32, -1]\n  observer: [minmax, mse]\n  symmetric: false\n")
    assert list(load_suite(path).variants) == [
        "bf16",
        "int4",
        "awq-w4-g32-minmax-asym",
        "awq-w4-g32-mse-asym",
        "awq-w4-channel-minmax-asym",
        "awq-w4-channel-mse-asym",
    ]


def test_set_changes_one_key(write_suite):
    suite = load_suite(write_suite(GOOD), ["engine.max_num_seqs=8", "workloads.accuracy.limit=5"])
    assert (suite.engine.max_num_seqs, suite.workloads.accuracy.limit) == (8, 5)
    assert "unknown key 'engine.max_num_seq'" in faults(write_suite(GOOD), "engine.max_num_seq=8")[0]
    assert "is not key=value" in faults(write_suite(GOOD), "engine")[0]
    assert "is not a section" in faults(write_suite(GOOD), "name.x=1")[0]


def test_the_json_schema_describes_every_field():
    schema = Suite.model_json_schema()
    assert all("description" in field for field in schema["properties"].values())


def test_a_fault_of_the_plan_gets_the_line_of_the_key_that_it_names(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\nmodel: m\nvariants:\n  a.b:\n    recipe: {}\ngrid: {group_size: [32]}\nworkloads:\n  throughput:\n"
        "    loads:\n      text: {}\n  accuracy:\n    tasks: [x]\nengine:\n  port: 1\n"
    )
    places = {
        "model nowhere": 2,
        "variants.a.b: ignore": 4,
        "variants.a.b@marlin, variants.c: ignore": 4,
        "variants.awq-w4-g32-mse: group_size 32": 6,
        "loads.text": 10,
        "accuracy.tasks": 12,
        "engine.port": 14,
        "engine.max_num_seqs": None,
        "demo_vl: document 3": None,
        "--only x": None,
    }
    for where, line in places.items():
        (found,) = yaml_faults.located([Fault(where, "is wrong")], path, sections=workload_names())
        assert found.where == (f"{path}:{line}: {where}" if line else where)
    (set_by_hand,) = yaml_faults.located([Fault("engine.port", "is taken")], path, ["engine.port=2"])
    assert set_by_hand.where == "engine.port"
    assert yaml_faults.located([Fault("model", "x")], tmp_path / "none.yaml") == [Fault("model", "x")]


def test_one_line_for_each_thing_that_is_wrong():
    faults = [
        Fault("variants.a: ignore 'x'", "matches nothing", "y"),
        Fault("t: document 1", "is too long"),
        Fault("variants.b: ignore 'x'", "matches nothing", "y"),
        Fault("t: document 2", "is too long"),
        Fault("mmmu_art", "cannot be loaded"),
        Fault("mmmu_music", "cannot be loaded"),
        Fault("u: document 7", "is empty"),
        Fault("v: document 8", "is empty"),
    ]
    assert [str(f) for f in condensed(faults)] == [
        "variants.a, variants.b: ignore 'x': matches nothing; y",
        "t: document 1, document 2: is too long",
        "mmmu_art, mmmu_music: cannot be loaded",
        "u: document 7, v: document 8: is empty",
    ]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("group_size: 128", "group_size: 2024-13-45", "month must be in 1..12"),
        ("group_size: 128", "group_size: !!int abc", "holds a value that cannot be read"),
        ("group_size: 128", "group_size: " + "[" * 3000, "is nested too deeply"),
        ("bf16: {}", "bf16: {}\n  " + "n" * 200 + ": {}", "160 bytes at most"),
        ("name: s", "name: s\nsettings: {a: {}, b: {}}\npasses: [1]", "passes"),
    ],
)
def test_yaml_that_python_cannot_take_is_one_line(write_suite, before, after, said):
    assert said in "\n".join(faults(write_suite(GOOD.replace(before, after))))


def test_settings_over_an_engine_that_is_none(write_suite):
    text = GOOD.replace("bf16: {}", "bf16: {engine: [1]}") + "settings: {a: {}, b: {}}\n"
    assert ":4: variants.bf16.engine is [1]" in faults(write_suite(text))[0]


def test_aliases_of_aliases_are_walked_once(write_suite):
    levels = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    found = faults(write_suite(f"a0: &a0 [x]\n{levels}{GOOD}"))
    assert all("unknown key" in line and len(line) < 300 for line in found) and len(found) == 12


def test_the_line_of_a_variant_whose_name_is_odd(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text('variants:\n  x: {}\n  "x:y": {}\n  x y: {}\n  p.q: {}\n')
    lines = {"variants.x: a": 2, "variants.x:y: a": 3, "variants.x y.run: a": 4, "variants.p.q.checkpoint: a": 5}
    for where, line in lines.items():
        assert yaml_faults.located([Fault(where, "is wrong")], path, sections=workload_names())[0].where.startswith(
            f"{path}:{line}: "
        )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("workloads.accuracy.concurrency=yes", "concurrency is true, which is no number"),
        ("workloads.accuracy.limit=1234567890123456789012", "limit is 1234567890123456789012, a number too large"),
        ("workloads.accuracy.include_path=''", "include_path is empty: name a file or a folder"),
        ("calibration.dataset=''", "calibration.dataset"),
        ("engine.env.X=yes", "engine.env.X"),
    ],
)
def test_slips_that_yaml_makes_something_of(write_suite, change, told):
    text = "{name: x, model: demo, variants: {bf16: {}}, workloads: {accuracy: {tasks: [demo_vl_text]}}}"
    with pytest.raises(Refused) as refused:
        load_suite(write_suite(text), [change])
    assert told in str(refused.value.faults[0]) and "Error" not in str(refused.value.faults[0])


def test_a_variable_of_the_environment_is_a_text_whatever_yaml_makes_of_it(write_suite):
    text = "{name: x, model: demo, variants: {bf16: {}}, workloads: {accuracy: {tasks: [demo_vl_text]}}}"
    suite = load_suite(write_suite(text), ["engine.env.X=1", "engine.env.Y=0.5"])
    assert suite.engine.env == {"X": "1", "Y": "0.5"}


def test_a_file_of_megabytes_is_no_suite(tmp_path):
    (tmp_path / "big.yaml").write_text("- a\n" * 2_500_000)
    with pytest.raises(Refused, match="is 10 MiB, which is no suite; 1 MiB at most"):
        load_suite(tmp_path / "big.yaml")


def test_a_grid_names_what_its_method_has(write_suite):
    path = write_suite(GOOD + "grid:\n  method: [fp8]\n  scales: [dynamic, block]\n")
    assert {"fp8-scales-dynamic", "fp8-scales-block"} <= set(load_suite(path).variants)
