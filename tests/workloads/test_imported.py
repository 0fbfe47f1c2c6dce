"""Results of lm-eval and of vLLM's benchmarks, made by hand: what becomes a Record, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.compare.everything import compare_all
from harness.compare.gate import judge
from harness.record.folder import RunFolder
from harness.suite.gate_policy import Policy
from harness.util.errors import Refused
from harness.workloads.imported import Place, import_files
from reports import tables
from tests.helpers.arms import arms
from tests.helpers.records import record, run_of

SAMPLE = {
    "doc_id": 0,
    "doc": {"id": "one"},
    "target": "red",
    "arguments": {
        "gen_args_0": {
            "arg_0": ['[{"role": "user", "content": "Which colour?"}]'],
            "arg_1": {"until": [], "max_gen_toks": 8},
            "arg_2": {"visual": ["b8362f8987e192949d8121a4a2f27510005771af62b2fd2b184c38b9f112f6e9"]},
        }
    },
    "resps": [["red"]],
    "filtered_resps": ["red"],
    "filter": "strip",
    "metrics": ["exact_match"],
    "exact_match": 1.0,
}
RESULTS = {
    "results": {"colours": {"alias": "colours", "exact_match,strip": 0.5, "exact_match_stderr,strip": "N/A"}},
    "configs": {"colours": {"task": "colours", "doc_to_text": "{{question}}"}},
    "n-shot": {"colours": 0},
    "n-samples": {"colours": {"original": 2, "effective": 2}},
    "config": {
        "model": "local-chat-completions",
        "model_args": {"model": "m", "base_url": "http://127.0.0.1:1/v1/chat/completions", "max_images": 1},
        "limit": None,
        "gen_kwargs": {},
    },
    "date": 1795694375.6,
    "lm_eval_version": "0.4.13",
    "transformers_version": "5.19.0",
    "model_source": "local-chat-completions",
    "total_evaluation_time_seconds": "10.4",
}
BENCH = {
    "date": "20260101-120000",
    "backend": "openai-chat",
    "model_id": "m",
    "num_prompts": 32,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 4,
    "duration": 3.0,
    "completed": 32,
    "failed": 0,
    "total_input_tokens": 1000,
    "total_output_tokens": 2048,
    "request_throughput": 10.6,
    "output_throughput": 680.0,
    "mean_ttft_ms": 80.0,
    "std_ttft_ms": 3.0,
    "mean_tpot_ms": 1.2,
    "mean_e2el_ms": 90.0,
    "p99_e2el_ms": 120.0,
}


def write(folder: Path, name: str, data) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("\n".join(map(json.dumps, data)) + "\n" if isinstance(data, list) else json.dumps(data))
    return path


def lm_eval_files(folder: Path, second: str) -> Path:
    two = SAMPLE | {"doc_id": 1, "doc": {"id": "two"}, "resps": [[second]], "filtered_resps": [second]}
    two |= {"exact_match": float(second == "red")}
    loose = [row | {"filter": "loose", "exact_match": 0.0} for row in (SAMPLE, two)]
    write(folder, "samples_colours_2026-01-01.jsonl", [SAMPLE, two, *loose])
    return write(folder, "results_2026-01-01.json", RESULTS)


def test_lm_evals_results_become_records_that_can_be_compared(tmp_path):
    run = RunFolder(tmp_path / "r")
    for variant, said in (("bf16", "red"), ("int4", "")):
        (made,) = import_files(run, [lm_eval_files(tmp_path / variant, said)], Place(variant))
        assert made.imported_from and made.status == "done"
    assert made.metrics["score"].value == 0.5 and made.metrics["unparsed"].value == 0.5
    assert made.metrics["cut_by_length"].reason == "lm-eval does not record it"
    found = compare_all(run)
    assert [(c.n, c.lost, c.candidate) for c in found.accuracy] == [(2, 1, "int4")]
    assert "| int4 | colours | 2 |" in tables.markdown(run) and "N/A (imported)" in tables.markdown(run)


def test_results_without_samples_are_inconclusive(tmp_path):
    run = RunFolder(tmp_path / "r")
    import_files(run, [lm_eval_files(tmp_path / "bf16", "red")], Place("bf16"))
    (made,) = import_files(run, [write(tmp_path / "int4", "results_2026-01-01.json", RESULTS)], Place("int4"))
    assert (made.metrics["score"].value, made.metrics["score"].stderr, made.samples) == (0.5, None, 0)
    assert [v.outcome for v in judge(run, Policy())] == ["inconclusive"]


@pytest.mark.parametrize(
    ("metric", "value", "better", "told"),
    [
        ("bypass", 999, None, "bypass, is no score of an answer"),
        ("anls", 84.0, True, "metric anls is 84; scores are shares from 0 to 1"),
        ("wer", 0.1, False, "wer, is better when lower"),
        ("bleu", 0.3, True, "bleu, is no score of an answer"),
    ],
)
@pytest.mark.parametrize("with_samples", [True, False])
def test_scores_that_are_no_shares_are_refused_by_name(tmp_path, metric, value, better, told, with_samples):
    results = RESULTS | {"results": {"colours": {"alias": "colours", f"{metric},none": value}}}
    results["higher_is_better"] = {"colours": {metric: better}}
    path = write(tmp_path / "f", "results_2026-01-01.json", results)
    if with_samples:
        write(tmp_path / "f", "samples_colours_2026-01-01.jsonl", [SAMPLE | {"metrics": [metric], metric: value}])
    with pytest.raises(Refused, match=told):
        import_files(RunFolder(tmp_path / "r"), [path], Place("v"))
    assert not (tmp_path / "r").exists()


def test_an_import_is_not_comparable_with_what_was_measured_here(tmp_path):
    run = run_of(tmp_path / "r", (record("a", "1", "colours"), arms(2, 0, 0)[0]))
    import_files(run, [lm_eval_files(tmp_path / "f", "red")], Place("b"))
    assert "device.name: CPU and unknown" in str(compare_all(run).faults[0])


def test_bench_results_become_trials(tmp_path):
    run = RunFolder(tmp_path / "r")
    for variant, speed in (("bf16", 680.0), ("int4", 1000.0)):
        paths = [
            write(tmp_path / variant, f"{i}.json", BENCH | {"output_throughput": speed + i, "date": f"20260101-12000{i}"})
            for i in range(3)
        ]
        made = import_files(run, paths, Place(variant, load="image128", device="CPU"))
        assert [r.cell.point["trial"] for r in made] == [1, 2, 3] and made[0].cell.workload == "throughput"
    again = import_files(run, paths[:1], Place("int4", load="image128", device="CPU"))
    assert again[0].cell.key == made[0].cell.key and len(run.read().cells) == 6
    faster = next(c for c in compare_all(run).speed if c.metric == "output_throughput")
    assert faster.verdict == "faster" and faster.candidate_n == 3 and faster.unit == "tokens/s"
    with pytest.raises(Refused, match="one result counts once"):
        import_files(run, paths[:1], Place("int4", load="other"))


def test_a_bench_whose_requests_failed_is_invalid(tmp_path):
    run = RunFolder(tmp_path / "r")
    path = write(tmp_path / "f", "b.json", BENCH | {"completed": 0, "failed": 32, "max_concurrency": 1})
    (made,) = import_files(run, [path], Place("v"))
    assert (made.status, made.cell.workload) == ("invalid", "latency")
    assert made.reason == "0 of 32 requests were answered, 32 failed"


def test_offline_benches(tmp_path):
    latency = {"avg_latency": 0.5, "latencies": [0.4, 0.6], "percentiles": {"99": 0.6}}
    throughput = {"elapsed_time": 33.0, "num_requests": 100, "total_num_tokens": 5000, "requests_per_second": 3.0}
    paths = [
        write(tmp_path / "f", n, d) for n, d in (("l.json", latency), ("t.json", throughput | {"tokens_per_second": 150.0}))
    ]
    one, two = import_files(RunFolder(tmp_path / "r"), paths, Place("v"))
    assert one.metrics["mean_e2el_ms"].value == 500 and one.metrics["p99_e2el_ms"].value == 600
    assert two.metrics["total_token_throughput"].value == 150


def test_imports_are_all_or_nothing(tmp_path):
    good = write(tmp_path / "f", "b.json", BENCH)
    bad = write(tmp_path / "f", "c.json", BENCH | {"completed": [1]} | {"request_rate": {}})
    broken = lm_eval_files(tmp_path / "g", "red")
    (tmp_path / "g" / "samples_colours_2026-01-01.jsonl").write_text('{"doc_id": 0}\n')
    for other, told in ((broken, "jsonl:1: is no sample of lm-eval"), (write(tmp_path / "f", "d.json", {"x": 1}), "neither")):
        with pytest.raises(Refused, match=told):
            import_files(RunFolder(tmp_path / "r"), [good, other], Place("v"))
        assert not (tmp_path / "r").exists()
    import_files(RunFolder(tmp_path / "odd"), [bad], Place("v"))  # odd figures are left out, the Cell is invalid
    assert next(RunFolder(tmp_path / "odd").records()).status == "invalid"


def test_a_variant_that_was_measured_here_is_not_overwritten(tmp_path):
    run = run_of(tmp_path / "r", (record("b", "1", "colours"), arms(2, 0, 0)[0]))
    with pytest.raises(Refused, match="was measured here"):
        import_files(run, [write(tmp_path / "f", "b.json", BENCH)], Place("b"))


OLDER = {
    "rows without metrics and filter (0.4.5)": lambda row: [{k: v for k, v in row.items() if k not in ("metrics", "filter")}],
    "arguments as a list (0.4.3)": lambda row: [row | {"arguments": [["Which colour?", {"until": []}]]}],
}


@pytest.mark.parametrize("form", [*OLDER, "one list (0.4.2)", "no n-samples", "a name of its own", "a raw line separator"])
def test_forms_that_releases_of_lm_eval_wrote_are_read(tmp_path, form):
    two = SAMPLE | {"doc_id": 1, "doc": {"id": "two"}, "exact_match": 0.0, "target": "blue\u2028and\u0085more"}
    rows = [row for one in (SAMPLE, two) for row in OLDER.get(form, lambda row: [row])(one)]
    results = {k: v for k, v in RESULTS.items() if form != "no n-samples" or k != "n-samples"}
    name = "eval_2026-01-01.json" if form == "a name of its own" else "results_2026-01-01.json"
    path = write(tmp_path, name, results)
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    text = json.dumps(rows) if form.startswith("one list") else lines
    (tmp_path / "samples_colours_2026-01-01.jsonl").write_text(text, encoding="utf-8")
    (made,) = import_files(RunFolder(tmp_path / "r"), [path], Place("v"))
    assert (made.samples, made.metrics["score"].value) == (2, 0.5)
    (first, second) = RunFolder(tmp_path / "r").samples(made.cell.key)
    assert (first.doc_id, second.doc_id, second.target) == ("one", "two", two["target"])


def test_fewer_samples_than_were_asked_are_a_file_that_was_cut(tmp_path):
    path = lm_eval_files(tmp_path / "f", "red")
    write(tmp_path / "f", "samples_colours_2026-01-01.jsonl", [SAMPLE])
    with pytest.raises(Refused, match="1 samples stand beside it and 2 documents were asked"):
        import_files(RunFolder(tmp_path / "r"), [path], Place("v"))


def test_a_declared_range_is_scaled_and_what_guessing_gives_stands_beside_it(tmp_path):
    about = {"configs": {"colours": {"metadata": {"score_range": [0, 100], "chance": 0.25}}}}
    path = write(tmp_path / "f", "results_2026-01-01.json", RESULTS | about)
    rows = [SAMPLE | {"exact_match": 80.0}, SAMPLE | {"exact_match": 40.0, "doc_id": 1, "doc": {"id": "two"}}]
    write(tmp_path / "f", "samples_colours_2026-01-01.jsonl", rows)
    (made,) = import_files(RunFolder(tmp_path / "r"), [path], Place("v"))
    assert made.metrics["score"].value == pytest.approx(0.6) and made.metrics["chance"].value == 0.25


@pytest.mark.parametrize("stated", [[0], [1, 0], ["a", 1], [0, float("inf")], 100])
def test_a_range_that_is_none_is_refused(tmp_path, stated):
    about = {"configs": {"colours": {"metadata": {"score_range": stated}}}}
    path = write(tmp_path / "f", "results_2026-01-01.json", RESULTS | about)
    with pytest.raises(Refused, match=r"metadata\.score_range is "):
        import_files(RunFolder(tmp_path / "r"), [path], Place("v"))


def test_ids_that_repeat_pair_by_position_where_it_is_asked_for(tmp_path):
    run = RunFolder(tmp_path / "r")
    for variant, second in (("bf16", 1.0), ("int4", 0.0)):
        path = write(tmp_path / variant, "results_2026-01-01.json", RESULTS)
        rows = [SAMPLE, SAMPLE | {"doc_id": 1, "exact_match": second}]
        write(tmp_path / variant, "samples_colours_2026-01-01.jsonl", rows)
        import_files(run, [path], Place(variant, by_position=True))
    assert [(c.n, c.lost) for c in compare_all(run).accuracy] == [(2, 1)]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "1: is not JSON"),
        ("[1]", "no readable"),
        ("7", "1: is no sample of lm-eval: no JSON object"),
        ('{"doc_id": 0, "doc": {}, "metrics": ["m"]}', "1: is no sample of lm-eval: it lacks 'arguments'"),
        (json.dumps(SAMPLE | {"arguments": 7}), "1: is no sample of lm-eval: a field is of another kind"),
        (json.dumps(SAMPLE).replace('"red"', '"\\ud800"'), "1: holds half of a surrogate pair"),
    ],
)
def test_bad_rows_are_named_by_number_without_an_exceptions_name(tmp_path, line, told):
    path = write(tmp_path / "f", "results_2026-01-01.json", RESULTS)
    (tmp_path / "f" / "samples_colours_2026-01-01.jsonl").write_text(line)
    with pytest.raises(Refused) as refused:
        import_files(RunFolder(tmp_path / "r"), [path], Place("v"))
    said = str(refused.value.faults[0])
    assert "Error" not in said and (told in said or line == "[1]")
