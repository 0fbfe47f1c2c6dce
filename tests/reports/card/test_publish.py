"""Publishing, with the real ModelScope client against a hub on the loopback interface."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import yaml

from harness.checkpoints import locate
from harness.cli import main
from harness.record.folder import RunFolder
from harness.record.records import Asked, CellId, Metric
from harness.util.errors import CellFailed, Fault, Refused
from harness.util.progress import Reporter
from reports.card import edit, publish
from reports.card.publish import Request
from tests.helpers.arms import trial
from tests.helpers.cards import CARD, block_of
from tests.helpers.published import KEY, REPO, RESULTS, TOKEN, card, go, make_run, set_suite, set_variant, weights_of
from tests.helpers.records import keep, record, sample, with_facts


def test_the_card_is_shown_and_nothing_is_written(server, run, capfd):
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    assert main.main(["publish", str(run.path), "--repo", REPO]) == 0
    told = capfd.readouterr()
    assert "+base_model_relation: quantized" in told.out and "+## Measured results" in told.out
    assert told.out.startswith("--- README.md") and "new: evaluation/s.json; changed: README.md" in told.err
    assert "suite s has no gate section" in told.err and "nothing was written" in told.err
    assert not server.commits and {one.method for one in server.asked} == {"GET"}
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    assert not (run.path.parent / "state").exists()


def test_one_commit_holds_the_card_and_the_results(server, run, capfd):
    assert go(run) == f"{1:040x}"
    (made,) = server.commits
    assert [a["path"] for a in made["actions"]] == ["README.md", RESULTS]
    assert made["commit_message"] == "Measured results of int4 (s), vl-harness 0.1.0"
    after = card(server)
    assert [line for line in CARD.splitlines() if line not in after.splitlines()] == []
    assert "Accuracy over 40 questions: 72.50 %, the baseline 75.00 %" in block_of(after)
    assert "Weights on disk: 7,8" in block_of(after) or "Weights on disk: 0.01 MiB" in block_of(after)
    results = json.loads(server.repos[KEY][RESULTS])
    assert [r["cell"]["variant"] for r in results["records"]] == ["bf16", "int4"] and results["accuracy"][0]["n"] == 40
    assert "read back and found right" in capfd.readouterr().err
    assert go(run) is None and len(server.commits) == 1
    assert "nothing changed" in capfd.readouterr().err
    assert not (run.path.parent / "state").exists()


def test_what_goes_to_the_page_tells_nothing_of_this_machine(server, run):
    go(run)
    for text in (card(server), server.repos[KEY][RESULTS].decode()):
        assert not [w for w in ("/home", "bob", "v4lue", "hidden", str(run.path)) if w in text]
    assert "`SOME_KEY`" in card(server)


def test_the_suite_on_the_card_can_be_run_again(server, run):
    from harness.suite.schema import Suite

    go(run)
    text = card(server).partition("```yaml\n")[2].partition("```")[0]
    suite = Suite.model_validate(yaml.safe_load(text))
    assert suite.name == "s" and list(suite.variants) == ["bf16", "int4"] and suite.engine.env == {}


def test_the_card_in_chinese_and_hugging_face_s_form(server, run):
    go(run, language="zh", model_index=True, base_model="Qwen/Qwen3-VL-8B-Instruct")
    front = yaml.safe_load(card(server).split("---\n")[1])
    assert "## 实测结果" in card(server) and "如何复现" in card(server)
    assert front["base_model"] == "Qwen/Qwen3-VL-8B-Instruct"
    assert front["tags"] == [
        "1.0",
        "awq",
        "w4a16",
        "compressed-tensors",
        "vllm",
    ]
    assert front["model-index"][0]["name"] == "Tiny-VL-AWQ"
    assert front["indexing"]["results"][0]["metrics"][0]["value"] == 0.725  # what the Record holds
    go(run)
    assert "## Measured results" in card(server) and card(server).count(edit.BEGIN) == 1


def test_no_name_can_forge_a_marker(server, run):
    set_suite(run, name=f"x {edit.END}")
    with pytest.raises(Refused, match="the block would hold a marker of its own"):
        go(run)
    assert not server.commits


def test_a_repository_without_a_card_gets_one(server, run):
    del server.repos[KEY]["README.md"]
    go(run)
    assert "\n# Tiny-VL-AWQ\n" in card(server) and card(server).startswith("---\nbase_model_relation: quantized\n")


def test_a_public_card_is_shown_without_a_token(server, run, monkeypatch):
    monkeypatch.delenv("MODELSCOPE_API_TOKEN")
    with pytest.raises(Refused, match="may not be read without a token"):
        go(run, apply=False)
    server.token = None
    assert go(run, apply=False) is None and not any(one.secrets for one in server.asked[1:])


def test_a_token_is_asked_for_where_somebody_can_answer(server, run, monkeypatch, capfd):
    monkeypatch.delenv("MODELSCOPE_API_TOKEN")
    monkeypatch.setattr(publish.sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr(publish.getpass, "getpass", lambda *_, **__: TOKEN)
    assert go(run) and TOKEN not in "".join(capfd.readouterr())


def test_a_repository_is_created_only_by_its_own_act(server, run, capfd):
    own = ["publish", str(run.path), "--repo", "alice/New"]
    assert main.main([*own, "--create"]) == 2 and main.main([*own, "--visibility", "public"]) == 2
    assert main.main([*own, "--apply"]) == 2 and "models/alice/New" not in server.repos
    assert main.main([*own, "--create", "--visibility", "private"]) == 0
    assert server.repos["models/alice/New"] == {} and server.visibility["models/alice/New"] == 1
    assert main.main([*own, "--create", "--visibility", "public"]) == 2
    assert "is there already" in capfd.readouterr().err
    assert main.main([*own, "--apply"]) == 0 and "# New" in server.repos["models/alice/New"]["README.md"].decode()
    server.silent.add("create")
    assert main.main(["publish", str(run.path), "--repo", "alice/Other", "--create", "--visibility", "private"]) == 1
    assert "created nothing" in capfd.readouterr().err


def test_failed_and_missing_cells_keep_it_from_being_published(server, tmp_path, capfd):
    run = make_run(tmp_path / "bad", status="invalid", reason="cache hits, see /home/bob/log")
    keep(run, record("int4", "3", "u"), [sample("1", 1.0)])
    with_facts(run, cells=["1", "2", "3", "4"])
    with pytest.raises(Refused, match=r"int4/accuracy/t: invalid: cache hits.*--anyway") as refused:
        go(run)
    assert len(refused.value.faults) == 2 and "1 planned Cells have no Record" in str(refused.value)
    go(run, apply=False)
    assert capfd.readouterr().err.count("--apply would refuse") == 2
    go(run, anyway=True)
    block = block_of(card(server))
    assert "`int4/accuracy/t` is left out, it is invalid: cache hits, see log." in block and "72.50" not in block
    assert "1 planned Cells have no Record" in block


@pytest.mark.parametrize("anyway", [False, True])
def test_a_gate_that_fails_keeps_it_from_being_published(server, run, monkeypatch, anyway):
    from reports.card import subject

    monkeypatch.setattr(subject, "gate", lambda view: ("fail", ["recovery is too low"]))
    if anyway:
        go(run, anyway=True)
        assert "Gate of the suite s: **fail**." in card(server)
        return
    with pytest.raises(Refused, match="gate of s: fail: recovery is too low"):
        go(run)
    assert not server.commits


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (Refused(Fault("int4", "has no documents")), "gate of s: blocked: int4: has no documents"),
        ("fail", r"gate of s: fail: accuracy: too low \(and 1 more\)"),
        ("inconclusive", ""),
    ],
)
def test_a_gate_that_cannot_be_judged_blocks(server, run, monkeypatch, module, told):
    def judge(judged, policy):
        assert isinstance(judged, RunFolder) and policy == {"a": 1}
        if isinstance(module, Exception):
            raise module
        return [SimpleNamespace(name="accuracy", reason="too low", outcome=module)] * 2

    gate = SimpleNamespace(judge=judge, outcome=lambda verdicts: module)
    monkeypatch.setitem(sys.modules, "harness.compare.gate", gate)
    policy = SimpleNamespace(policy_of=lambda held, path: held)
    monkeypatch.setitem(sys.modules, "harness.suite.gate_policy", policy)
    set_suite(run, gate={"a": 1})
    if not told:
        assert go(run) and "Gate of the suite s: **inconclusive**." in card(server)
        return
    with pytest.raises(Refused, match=told):
        go(run)
    assert not server.commits


def test_random_weights_and_imports_are_marked(server, tmp_path):
    run = make_run(tmp_path / "random", random_weights=True)
    with pytest.raises(Refused, match="holds no finished measurement of int4"):
        go(run)
    run = make_run(tmp_path / "imported", imported_from="/home/bob/results_1.json")
    go(run)
    block = block_of(card(server))
    assert "> **Imported**: other tools measured what is marked so: `int4/accuracy/t` (`results_1.json`)." in block
    assert "| int4 | t | done: imported from results_1.json |" in block
    assert "bob" not in card(server) and "indexing" not in card(server)


def test_weights_are_sent_once_and_the_token_goes_to_the_hub_alone(server, run, checkpoint, capfd):
    weights_of(run, checkpoint)
    server.repos[KEY]["config.json"] = (checkpoint / "config.json").read_bytes()
    server.on_commit = "down"
    with pytest.raises(CellFailed):
        go(run, weights=True)
    weights = [p for p in checkpoint.iterdir() if p.suffix == ".safetensors"]
    assert len([one for one in server.asked if one.method == "PUT"]) == len(weights)
    server.on_commit = ""
    go(run, weights=True)
    assert len([one for one in server.asked if one.method == "PUT"]) == len(weights)
    assert "is on the hub already" in capfd.readouterr().err
    held = server.repos[KEY]
    names = {p.name for p in checkpoint.iterdir() if p.name not in locate.NOT_WEIGHTS}
    assert all(held[name] == (checkpoint / name).read_bytes() for name in names)
    assert "config.json" not in [a["path"] for a in server.commits[0]["actions"]]
    assert not any(one.secrets for one in server.asked if one.path.startswith("/store/"))
    set_variant(run, content="other")
    with pytest.raises(Refused, match="is not the checkpoint that was measured"):
        go(run, weights=True)
    set_variant(run, checkpoint="/nowhere/int4")
    with pytest.raises(Refused, match="the checkpoint is not there"):
        go(run, weights=True)


def test_several_runs_make_one_card(server, run, tmp_path):
    other = make_run(tmp_path / "second")
    set_suite(other, name="zweite Messung")
    with Reporter() as report:
        publish.publish(Request([run.path, other.path], REPO, apply=True), report, print)
        assert len([p for p in server.repos[KEY] if p.startswith("evaluation/")]) == 2
        with pytest.raises(Refused, match="is a second Run of suite s"):
            publish.publish(Request([run.path, run.path], REPO), report, print)
        set_variant(other, content="c")
        with pytest.raises(Refused, match="measured another checkpoint as int4"):
            publish.publish(Request([run.path, other.path], REPO), report, print)


def with_speed(run: RunFolder, **change: object) -> RunFolder:
    """The Run with throughput and memory of both arms as well; `change` is made to the variant's Records."""
    keys = ["1", "2"]
    for name, rates, weights, update in (("bf16", (100, 101, 99), 16.0, {}), ("int4", (150, 151, 149), 6.0, change)):
        for level in (1, 8):
            for number, rate in enumerate(rates, 1):
                made = trial(name, number, number, level=level, output_throughput=float(rate * level))
                keys.append(run.add(made.model_copy(update=update)).cell.key)
        held = {
            "weights_gib": Metric(value=weights, unit="GiB", source="log"),
            "kv_cache_tokens": Metric.missing("tokens", "mute"),
        }
        made = record(name, f"m{name}", workload="memory")
        cell = CellId(variant=name, workload="memory", point={"load": "image512"}, key=f"m{name}")
        keys.append(run.add(made.model_copy(update={"cell": cell, "metrics": held, **update})).cell.key)
    with_facts(run, cells=keys)
    return run


def test_speed_and_memory_stand_in_the_block(server, run):
    go(with_speed(run))
    block = block_of(card(server))
    assert "- Output tokens/s, times the baseline's: from 1.50" in block and "throughput/image512-concurrency8" in block
    assert "- weights\\_gib: 6 GiB, the baseline 16 GiB." in block or "- weights_gib: 6 GiB, the baseline 16 GiB." in block
    assert "- `kv_cache_tokens`: mute." in block and "Not in these Runs: latency." in block
    rows = [line for line in block.splitlines() if line.startswith("| int4 ") and "1,200" in line]
    assert len(rows) == 3  # in the summary, compared, and alone
    assert json.loads(server.repos[KEY][RESULTS])["speed"][0]["speedup"]["value"] > 1.4


def test_random_weights_show_speed_and_no_accuracy(server, tmp_path):
    run = with_speed(make_run(tmp_path / "random", random_weights=True), random_weights=True)
    go(run)
    block = block_of(card(server))
    assert "> **Random weights**: the model was never trained." in block and "from 1.50" in block
    assert "72.50" not in block and "an accuracy of random weights says nothing" in block
    assert "indexing" not in card(server) and "accuracy" not in card(server).split("---\n")[1]


def test_invalid_speed_gives_no_ratio(server, run):
    with_speed(run, status="invalid", reason="cache hits")
    with pytest.raises(Refused, match="invalid: cache hits"):
        go(run)
    go(run, anyway=True)
    assert "times the baseline" not in card(server) and "it is invalid: cache hits." in card(server)


def test_a_run_that_stopped_when_it_was_decided_is_no_score_for_a_card(server, run):
    for one in list(run.records()):
        asked = Asked(of=3000, most=1, limit=0.98, decided=True)
        run.add(one.model_copy(update={"asked": asked}), list(run.samples(one.cell.key)))
    with pytest.raises(Refused, match=r"asked 40 of 3,000 questions.*--to-the-end.*--partial"):
        go(run, apply=False)
    assert not server.commits
    go(run, partial=True, anyway=True)
    assert "Asking stopped when it was decided, after 40 of 3000 questions" in card(server)
    assert "(98 % interval)" in card(server)
