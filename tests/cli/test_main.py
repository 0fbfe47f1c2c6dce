"""The command: exit status, one clear line, never a traceback, nothing heavy for --help."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from harness.cli import main
from tests.helpers.records import ROOT, keep, record, sample
from tests.helpers.verbs import VERBS


def harness(*arguments: str, cwd=ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env=environment(),
    )


def environment() -> dict[str, str]:
    import os

    return dict(os.environ, PYTHONPATH=str(ROOT))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main.main([verb, "--help"])
    assert ended.value.code == 0 and "usage" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom harness.cli import main\ntry: main.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pandas', 'numpy', 'pydantic', 'rich', 'lm_eval', 'scipy'} & set(sys.modules)\n"
        "print('HEAVY', heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip().endswith("HEAVY set()")
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "nowhere.yaml"), "refused: nowhere.yaml: No such file or directory; name a suite file"),
        (
            ("plan", "suites/vl_accuracy.yaml", "--set", "model=nowhere"),
            "refused: model nowhere: there is no such folder",
        ),
        (("plan", "suites/vl_accuracy.yaml", "--set", "engine.max_num_sequs=1"), "did you mean 'max_num_seqs'?"),
        (("report", "results/none"), "is no Run"),
        (("report", "results/demo_cpu", "--table", "storge"), "there are: summary, accuracy-against-the-baseline"),
        (("report", "results/demo_cpu", "--html", "results"), "--html: results is a folder"),
        (("pick", "results/demo_cpu", "--min-recovery", "98"), "did you mean 0.98?"),
        (("verify", "/nowhere"), "there is no such folder"),
        (("infer", "nowhere", "--prompt", "x"), "there is no such folder"),
        (("infer", "demo", "--prompt", "x", "--image", "none.png"), "No such file or directory"),
        (("infer", "demo", "--prompt", "x", "--image", "pyproject.toml"), "is no picture"),
        (("infer", "demo", "--prompt", "x", "--max-tokens", "0"), "use 1 or more"),
        (("infer", "demo", "--prompt", "x", "--max-model-len", "0"), "--max-model-len: is 0"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, told, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert told in err and "Traceback" not in err
    assert err and all(line.startswith("refused: ") for line in err.splitlines())
    assert out == "" or arguments[0] == "plan"


def test_a_refusal_is_the_commands_status_too():
    done = harness("run", "nowhere.yaml")
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr
        == "refused: nowhere.yaml: No such file or directory; name a suite file, for example suites/vl_accuracy.yaml\n"
    )


def test_a_run_that_is_refused_writes_nothing(tmp_path):
    done = harness("run", str(ROOT / "suites/vl_accuracy.yaml"), "--set", "engine.images_per_prompt=0", cwd=tmp_path)
    assert done.returncode == 2 and "shows images; use 1 or more" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_schema_is_json():
    assert "properties" in json.loads(harness("schema").stdout)


def test_report_prints_tables_and_markdown(tmp_path):
    from harness.record.folder import RunFolder
    from harness.record.run_facts import RunFacts

    run = RunFolder(tmp_path / "r")
    for variant, key in (("a", "1"), ("b", "2")):
        keep(run, record(variant, key), [sample("1", 1.0), sample("2", 0.0)])
    run.write(
        RunFacts.model_validate(
            {"suite": {"name": "s", "model": "m"}, "baseline": "a", "variants": {"a": {}, "b": {}}, "cells": ["1", "2"]}
        )
    )
    done = harness("report", str(run.path), "--markdown")
    assert done.returncode == 0 and "| b | t | 2 |" in done.stdout
    assert "Accuracy against the baseline" in harness("report", str(run.path)).stdout


def test_report_writes_a_page_and_pick_names_a_variant(tmp_path):
    page = tmp_path / "page.html"
    assert harness("report", "results/demo_cpu", "--html", str(page), "--lang", "zh").stdout == f"{page}\n"
    assert "恢复率" in page.read_text(encoding="utf-8")
    done = harness("pick", "results/demo_cpu", "--max-weights-gib", "8", "--min-recovery", "0.98")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "awq-int4-g128"
    done = harness("pick", "results/demo_cpu", "--max-weights-gib", "0.005", "--min-recovery", "0.999")
    assert done.returncode == 3 and done.stdout.splitlines()[-1] == "none"


def test_a_cache_folder_that_cannot_be_written_is_named_with_its_variable(tmp_path):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "harness", "plan", str(ROOT / "suites" / "vl_accuracy.yaml")],
        env=os.environ | {"HARNESS_CACHE": str(tmp_path / "file" / "cache")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"HARNESS_CACHE {tmp_path}/file/cache: cannot be written" in done.stderr
