"""The gate: what passes, what fails, what shows nothing, what forbids a verdict, and the exit status of each."""

from __future__ import annotations

import pytest

from harness.compare import gate
from harness.compare.tokens import compare_divergence
from harness.record.records import CellId, Metric, Record
from harness.record.samples import TokenScores
from harness.suite.gate_policy import AccuracyPolicy, MemoryPolicy, Policy, SpeedPolicy, load_policy
from harness.util.errors import Refused
from tests.helpers.arms import arms, trial, trials
from tests.helpers.records import keep, record, run_of, sample, with_facts
from tests.helpers.runs import memory_record, speed_record

POLICY = Policy()


def accuracy_run(path, n: int, lost: int, gained: int, **fields):
    base, other = arms(n, lost, gained)
    return run_of(path, (record("a", "1"), base), (record("b", "2", **fields), other))


def lines(verdicts) -> list[tuple[str, str]]:
    return [(v.place, v.outcome) for v in verdicts]


@pytest.mark.parametrize(
    ("n", "lost", "gained", "word", "status"),
    [
        (900, 6, 6, "pass", 0),
        (900, 45, 0, "fail", 1),
        (900, 15, 0, "inconclusive", 3),
        (60, 1, 1, "inconclusive", 3),
        (5, 0, 0, "inconclusive", 3),
        (900, 0, 0, "pass", 0),
    ],
)
def test_accuracy_is_non_inferiority(tmp_path, n, lost, gained, word, status):
    verdicts = gate.judge(accuracy_run(tmp_path / "r", n, lost, gained), POLICY)
    assert lines(verdicts) == [("t", word)]
    assert gate.status(verdicts) == status and gate.outcome(verdicts) == word


def test_no_loss_shown_with_few_questions_is_no_pass_and_says_how_many_it_would_take(tmp_path):
    (verdict,) = gate.judge(accuracy_run(tmp_path / "r", 100, 2, 2), POLICY)
    assert verdict.outcome == "inconclusive"
    assert "100 questions are too few, about 1,202 show it with 80 % power" in verdict.reason


def test_the_total_counts_and_a_task_alone_only_when_more_is_shown_to_be_lost(tmp_path):
    good, bad = arms(900, 6, 6), arms(60, 1, 1)
    parts = [(record(v, v + t, t), rows[i]) for t, rows in (("big", good), ("small", bad)) for i, v in enumerate("ab")]
    verdicts = gate.judge(run_of(tmp_path / "r", *parts), POLICY)
    assert lines(verdicts) == [("big", "pass"), ("small", "inconclusive"), ("all", "pass")]
    assert [v.required for v in verdicts] == [False, False, True] and gate.status(verdicts) == 0
    strict = Policy(accuracy=AccuracyPolicy(tasks=("all", "small")))
    assert gate.status(gate.judge(run_of(tmp_path / "r", *parts), strict)) == 3
    with pytest.raises(Refused, match="no candidate was asked 'smal'; did you mean 'small'"):
        gate.judge(run_of(tmp_path / "r", *parts), Policy(accuracy=AccuracyPolicy(tasks=("smal",))))


def four_choices(answer: str, score: float, **fields):
    """400 documents of four choices with equally frequent right answers."""
    letters = "ABCD"
    return [
        sample(str(i), score if isinstance(score, float) else 0, answer or letters[i % 4], target=letters[i % 4], **fields)
        for i in range(400)
    ]


def test_a_candidate_that_only_says_one_thing_fails_whatever_its_score(tmp_path):
    base = four_choices("", 1.0)
    for said in ("!!!!", "B"):
        other = [s.model_copy(update={"answer": said, "response": said}) for s in base]
        (verdict,) = gate.judge(run_of(tmp_path / said, (record("a", "1"), base), (record("b", "2"), other)), POLICY)
        assert verdict.outcome == "fail" and verdict.reason.startswith("degenerate, whatever its score: 100 % of the answers")
    other = [s.model_copy(update={"response": "!" * 60}) for s in base[:100]] + base[100:]
    (verdict,) = gate.judge(run_of(tmp_path / "some", (record("a", "1"), base), (record("b", "2"), other)), POLICY)
    assert verdict.outcome == "fail" and "25 % of the answers repeat themselves" in verdict.reason


def test_a_baseline_that_broke_proves_nothing(tmp_path):
    other = four_choices("", 1.0)
    base = [s.model_copy(update={"answer": "B", "response": "B"}) for s in other]
    (verdict,) = gate.judge(run_of(tmp_path / "r", (record("a", "1"), base), (record("b", "2"), other)), POLICY)
    assert verdict.outcome == "blocked" and "the baseline is degenerate" in verdict.reason


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"finish_reason": "length"}, "40 % of b's answers were cut by length"), ({"parsed": False}, "in 40 % of b's replies")],
)
def test_answers_that_were_cut_or_not_found_block(tmp_path, fields, told):
    base, other = arms(100, 0, 0)
    other = [s.model_copy(update=fields) for s in other[:40]] + other[40:]
    verdicts = gate.judge(run_of(tmp_path / "r", (record("a", "1"), base), (record("b", "2"), other)), POLICY)
    assert told in verdicts[0].reason and gate.status(verdicts) == 3


def test_cells_that_failed_or_are_missing_block_and_a_fail_weighs_more(tmp_path):
    run = accuracy_run(tmp_path / "r", 900, 6, 6)
    failed = record("b", "3", "u").model_copy(update={"status": "invalid", "reason": "cache hits: 9"})
    run.add(failed)
    with_facts(run, cells=[*run.read().cells, "3", "4"])
    verdicts = gate.judge(run, POLICY)
    assert [(v.kind, v.outcome) for v in verdicts][:2] == [("cell", "blocked"), ("cell", "blocked")]
    assert "cache hits: 9" in verdicts[0].reason and "was not measured" in verdicts[1].reason
    assert gate.outcome(verdicts) == "blocked"
    with_facts(run, labels={"3": "b/accuracy/u", "4": "b/accuracy/w"})
    assert gate.judge(run, POLICY)[1].name == "b against the suite: cell/accuracy/w"
    (run.path / "records" / "3.json").write_text("{")
    assert "its Record cannot be read" in gate.judge(run, POLICY)[0].reason
    worse = accuracy_run(tmp_path / "w", 900, 45, 0)
    with_facts(worse, cells=["1", "2", "4"])
    assert gate.outcome(gate.judge(worse, POLICY)) == "fail"


def test_a_score_without_samples_is_inconclusive(tmp_path):
    bare = record("b", "2").model_copy(update={"metrics": {"score": Metric(value=0.7, unit="share", n=900)}})
    run = run_of(tmp_path / "r", (record("a", "1"), arms(900, 0, 0)[0]), (bare, []))
    verdicts = gate.judge(run, POLICY)
    assert gate.status(verdicts) == 3 and "without samples" in verdicts[0].reason


@pytest.mark.parametrize(
    ("base", "other", "told"),
    [
        ([sample("1", 1)], [sample("2", 1)], "different documents"),
        ([], [], "has no documents"),
    ],
)
def test_what_cannot_be_paired_is_refused(tmp_path, base, other, told):
    records = [record(v, k).model_copy(update={"metrics": {}} if not base else {}) for v, k in (("a", "1"), ("b", "2"))]
    with pytest.raises(Refused, match=told):
        gate.judge(run_of(tmp_path / "r", (records[0], base), (records[1], other)), POLICY)


def test_arms_that_differ_are_refused_and_nothing_to_judge_is_refused(tmp_path):
    with pytest.raises(Refused, match="max_num_seqs: 8 and 32"):
        gate.judge(accuracy_run(tmp_path / "r", 9, 0, 0, engine={"max_num_seqs": 32, "enforce_eager": None}), POLICY)
    with pytest.raises(Refused, match="nothing to judge"):
        gate.judge(run_of(tmp_path / "one", (record("a", "1"), arms(9, 0, 0)[0])), POLICY)


def test_a_history_without_what_the_policy_asks_for_blocks(tmp_path):
    """Two Runs of accuracy alone say nothing of speed, whatever else passes."""
    run = accuracy_run(tmp_path / "r", 900, 0, 0)
    policy = Policy(speed=SpeedPolicy(), memory=MemoryPolicy())
    verdicts = gate.judge(run, policy, accuracy_run(tmp_path / "before", 900, 0, 0))
    told = {v.kind: v for v in verdicts if v.kind in ("speed", "memory")}
    assert {v.outcome for v in told.values()} == {"blocked"} and len(told) == 2
    assert "measured it" in told["speed"].reason and gate.status(verdicts) == 3


def test_a_policy_that_asks_for_nothing_measured_is_named(tmp_path):
    run = run_of(tmp_path / "r", (speed_record("a", "text", 1, 1, 1.0), []), (memory_record("b", 7.0), []))
    with pytest.raises(Refused, match=r"measured speed and memory alone.*give the policy `speed:` and `memory:`"):
        gate.judge(run, POLICY)


def test_the_noise_floor_is_told_and_blocks_when_the_baseline_is_not_itself(tmp_path):
    def noisy(path, lost):
        base, again = arms(900, lost, 0)
        _, other = arms(900, 6, 6)
        return run_of(
            path,
            (record("a", "1", checkpoint="c", repeat=0), base),
            (record("a2", "2", checkpoint="c", repeat=1), again),
            (record("b", "3", repeat=0), [o.model_copy(update={"score": s.score}) for o, s in zip(other, base, strict=True)]),
        )

    verdicts = gate.judge(noisy(tmp_path / "r", 2), POLICY)
    assert verdicts[0].reason.startswith("noise floor, the baseline asked once more: 2 of 900 answers changed")
    assert [v.required for v in verdicts] == [False, True] and gate.status(verdicts) == 0
    broken = gate.judge(noisy(tmp_path / "w", 60), POLICY)
    assert broken[0].outcome == "blocked" and "is not itself" in broken[0].reason


def speed_run(path, levels: dict[int, float], variant: str = "b", **more):
    every = [r for level, v in levels.items() for r in trials(variant, [v, v * 1.004, v * 0.996], level=level, **more)]
    return run_of(path, *[(r, []) for r in every], baseline="a")


SPEED = Policy(speed=SpeedPolicy(max_slowdown=0.05))


def test_each_point_is_judged_against_its_own_history(tmp_path):
    before = speed_run(tmp_path / "before", {1: 180, 8: 130, 64: 80})
    now = speed_run(tmp_path / "now", {1: 181, 8: 110, 64: 81})
    verdicts = gate.judge(now, SPEED, before)
    assert [v.outcome for v in verdicts if v.metric == "output_throughput"] == ["pass", "fail", "pass"]
    assert "below 0.950x" in verdicts[1].reason and verdicts[1].against == "before" and gate.status(verdicts) == 1
    assert [v.outcome for v in verdicts if v.metric == "mean_e2el_ms"] == ["inconclusive"]
    assert not verdicts[-1].required and "no Record of both Runs has it" in verdicts[-1].reason


def test_one_trial_is_inconclusive_and_noise_is_too(tmp_path):
    before = run_of(tmp_path / "b", *[(r, []) for r in trials("b", [100])])
    now = run_of(tmp_path / "n", *[(r, []) for r in trials("b", [101])])
    verdicts = gate.judge(now, SPEED, before)
    assert verdicts[0].reason == "no interval: one trial" and gate.status(verdicts) == 3


def test_what_one_start_cannot_tell_is_said_with_the_passes_that_would(tmp_path):
    """Equal speeds on one start each: a limit of 5 % lies within what starts differ by."""
    before, now = (
        run_of(tmp_path / name, *[(r, []) for r in trials("b", [100, 101, 99], engine_start=1)]) for name in ("b", "n")
    )
    verdict = gate.judge(now, SPEED, before)[0]
    assert verdict.outcome == "inconclusive"
    assert verdict.reason.endswith(
        "; one start of an engine cannot tell what differs between starts, 3 % is assumed; "
        "`passes: 7` and `trials: 21` show it with 80 % power if nothing changed"
    )


def test_starts_that_differ_say_how_many_would_decide(tmp_path):
    before, now = (
        run_of(tmp_path / name, *[(r, []) for r in trials("b", values)])
        for name, values in (("b", [100, 104, 97]), ("n", [99, 104, 96]))
    )
    verdict = gate.judge(now, SPEED, before)[0]
    assert verdict.outcome == "inconclusive" and "assumed" not in verdict.reason and "`passes: " in verdict.reason


def test_new_points_have_no_history_and_lost_points_block(tmp_path):
    before = speed_run(tmp_path / "before", {1: 180, 8: 130})
    assert gate.status(gate.judge(speed_run(tmp_path / "new", {1: 180, 8: 130, 64: 9}), SPEED, before)) == 0
    verdicts = gate.judge(speed_run(tmp_path / "lost", {1: 180}), SPEED, before)
    assert gate.outcome(verdicts) == "blocked" and any("alone" in v.reason for v in verdicts)


def test_runs_of_two_devices_or_engines_are_no_history_unless_the_policy_says_so(tmp_path):
    before = speed_run(tmp_path / "before", {8: 100})
    other = {"device": {"kind": "gpu", "name": "H200"}}
    with pytest.raises(Refused, match=r"device\.name: CPU and H200"):
        gate.judge(speed_run(tmp_path / "d", {8: 100}, identity=other), SPEED, before)
    newer = speed_run(tmp_path / "v", {8: 100}, identity={"versions": {"vllm": "0.33.0", "torch": "2.13.0"}})
    with pytest.raises(Refused, match=r"versions.vllm: 0.32.0 and 0.33.0"):
        gate.judge(newer, SPEED, before)
    assert gate.status(gate.judge(newer, SPEED.model_copy(update={"may_differ": ("versions",)}), before)) == 0
    with pytest.raises(Refused, match="names the device"):
        gate.judge(newer, SPEED.model_copy(update={"may_differ": ("device.name",)}), before)


def test_a_policy_that_asks_for_history_is_inconclusive_without_one(tmp_path):
    run = accuracy_run(tmp_path / "r", 900, 6, 6)
    verdicts = gate.judge(run, Policy(speed=SpeedPolicy(), memory=MemoryPolicy()))
    assert [v.outcome for v in verdicts] == ["pass", "inconclusive", "inconclusive"]
    assert "--baseline" in verdicts[1].reason and gate.status(verdicts) == 3


def test_a_variant_may_have_to_be_faster_than_the_baseline_variant(tmp_path):
    every = [*trials("a", [100, 101, 99]), *trials("b", [150, 151, 149], labels=["input-bound"]), *trials("c", [150, 151, 149])]
    run = run_of(tmp_path / "r", *[(r, []) for r in every])
    verdicts = gate.judge(run, Policy(speed=SpeedPolicy(min_speedup=1.2)))
    assert [(v.candidate, v.outcome, v.required) for v in verdicts] == [("b", "inconclusive", False), ("c", "pass", True)]
    assert "input-bound" in verdicts[0].reason


def test_memory_is_read_and_not_sampled(tmp_path):
    def run(path, gib):
        one = trial("b", 1, workload="memory", weights_gib=gib)
        point = {"load": "x"}
        return run_of(path, (one.model_copy(update={"cell": one.cell.model_copy(update={"point": point})}), []))

    before, policy = run(tmp_path / "b", 8.0), Policy(memory=MemoryPolicy(max_growth=0.05, metrics=("weights_gib",)))
    assert gate.judge(run(tmp_path / "same", 8.1), policy, before)[0].outcome == "pass"
    (grown,) = gate.judge(run(tmp_path / "more", 9.0), policy, before)
    assert grown.outcome == "fail" and "8 and 9 tokens" in grown.reason
    with pytest.raises(Refused, match="'device_peak_gib' has no better direction"):
        gate.judge(run(tmp_path / "x", 8), Policy(memory=MemoryPolicy(metrics=("device_peak_gib",))), before)


def token_record(variant: str, key: str, repeat: int = 0, checkpoint: str | None = None) -> Record:
    made = record(variant, key, workload="divergence", repeat=repeat, **({"checkpoint": checkpoint} if checkpoint else {}))
    return made.model_copy(update={"cell": CellId(variant=variant, workload="divergence", point={"questions": 9}, key=key)})


def rows(shift: float, tokens=(5, 6)) -> list[TokenScores]:
    scores = [{5: -0.1 - shift, 9: -3.0}, {6: -0.2 - shift, 8: -2.5}]
    return [TokenScores(task="t", doc_id=str(i), tokens=list(tokens), logprobs=scores, best=[5, 6]) for i in range(9)]


def test_divergence_over_the_baselines_tokens(tmp_path):
    run = run_of(
        tmp_path / "r",
        (token_record("a", "1", checkpoint="c"), rows(0)),
        (token_record("a2", "2", repeat=1, checkpoint="c"), rows(0)),
        (token_record("b", "3"), rows(0.3)),
    )
    (again, other), faults = compare_divergence(run, "a")
    assert faults == [] and again.noise and not other.noise
    assert (again.mean.value, again.top1_agree, again.tokens, again.questions) == (0, 1, 18, 9)
    assert 0 < other.mean.low <= other.mean.value <= other.mean.high < 0.5 and other.mean.value < other.p99
    policy = Policy(accuracy=AccuracyPolicy(max_divergence=0.01))
    assert [(v.candidate, v.outcome) for v in gate.judge(run, policy)] == [("a2", "pass"), ("b", "fail")]


def test_the_upper_bound_of_a_divergence_is_judged_and_one_question_is_no_pass(tmp_path):
    def judged(name, questions, shifts, limit):
        many = [rows(shift)[0].model_copy(update={"doc_id": str(i)}) for i, shift in enumerate(shifts)]
        plain = [rows(0)[0].model_copy(update={"doc_id": str(i)}) for i in range(questions)]
        run = run_of(tmp_path / name, (token_record("a", "1"), plain), (token_record("b", "3"), many))
        (verdict,) = gate.judge(run, Policy(accuracy=AccuracyPolicy(max_divergence=limit)))
        return verdict

    assert judged("one", 1, [0.0], 0.01).outcome == "inconclusive"
    mixed = [0.0, 0.3] * 4
    middle = judged("mixed", 8, mixed, 1.0).value.value
    assert judged("near", 8, mixed, middle * 1.05).outcome == "inconclusive"
    assert judged("far", 8, mixed, middle * 3).outcome == "pass"
    assert judged("above", 8, mixed, middle / 10).outcome == "fail"


def test_divergence_over_other_tokens_is_not_compared(tmp_path):
    run = run_of(tmp_path / "r", (token_record("a", "1"), rows(0)), (token_record("b", "3"), rows(0, tokens=(5, 7))))
    found, faults = compare_divergence(run, "a")
    assert found == [] and "different tokens" in str(faults[0])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("accuracy: {min_recovry: 0.9}", "unknown key 'accuracy.min_recovry'; did you mean 'min_recovery'?"),
        ("gate: {speed: {max_slowdown: 7}}", "speed.max_slowdown is 7"),
        ("acuracy: {}", "did you mean 'accuracy'?"),
        ("[1, 2]", "holds no mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_policy_is_one_clear_line(tmp_path, text, told):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(Refused) as caught:
        load_policy(tmp_path / "p.yaml")
    assert told in str(caught.value)


def test_a_policy_file_with_and_without_gate_around_it(tmp_path):
    for name, text in (("a", "accuracy: {min_recovery: 0.9}"), ("b", "gate: {accuracy: {min_recovery: 0.9}}")):
        (tmp_path / name).write_text(text)
        assert load_policy(tmp_path / name).accuracy.min_recovery == 0.9


def test_a_key_that_stands_twice_in_a_policy_is_refused(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("accuracy: {min_recovery: 0.98, min_recovery: 0.1}\n")
    with pytest.raises(Refused, match="the key 'min_recovery' stands twice"):
        load_policy(path)


def test_a_baseline_at_chance_blocks(tmp_path):
    run = accuracy_run(tmp_path / "r", 900, 0, 0)
    (line,) = [v for v in gate.judge(run, POLICY) if v.kind == "accuracy"]
    assert line.outcome == "pass"
    chance = Metric(value=0.9999, unit="share")
    for key in ("1", "2"):
        made = run.record(key)
        samples = list(run.samples(key))
        keep(run, made.model_copy(update={"metrics": made.metrics | {"chance": chance}}), samples)
    (line,) = [v for v in gate.judge(run, POLICY) if v.kind == "accuracy"]
    assert line.outcome == "blocked" and "nothing can be lost from that" in line.reason


def test_a_scheme_that_the_card_computes_otherwise_blocks_unless_it_is_allowed(tmp_path):
    base, other = arms(900, 6, 6)
    b = record("b", "2")
    engine = b.provenance.engine | {"scheme_bits": "W4A4", "computed_as": "W4A16"}
    b = b.model_copy(update={"provenance": b.provenance.model_copy(update={"engine": engine})})
    run = run_of(tmp_path / "r", (record("a", "1"), base), (b, other))
    verdicts = gate.judge(run, POLICY)
    assert [v.outcome for v in verdicts] == ["pass", "blocked"] and gate.status(verdicts) == 3
    assert "computed as W4A16 on this device, its scheme asks for W4A4" in verdicts[1].reason
    allowed = Policy(accuracy=AccuracyPolicy(may_compute_as=("W4A16",)))
    assert gate.status(gate.judge(run, allowed)) == 0


def test_speed_alone_is_not_blocked_by_what_it_is_computed_in(tmp_path):
    a, b = record("a", "1"), record("b", "2")
    engine = b.provenance.engine | {"scheme_bits": "W4A4", "computed_as": "W4A16"}
    timed = b.model_copy(
        update={
            "cell": b.cell.model_copy(update={"workload": "latency"}),
            "provenance": b.provenance.model_copy(update={"engine": engine}),
        }
    )
    base, _ = arms(900, 6, 6)
    run = run_of(tmp_path / "r", (a, base), (timed, []))
    assert list(gate._computed_otherwise(run, AccuracyPolicy(), "a")) == []
