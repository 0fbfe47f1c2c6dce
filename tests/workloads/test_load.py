"""What is made of a trial: the rules that make it invalid, whose clock is believed, what it is labelled. Pure functions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from harness.engine.settings import EngineSettings
from harness.record.records import Metric
from harness.workloads import load
from harness.workloads.load import Load, LoadSpec, broken_rules, client_metrics, labels, server_metrics
from harness.workloads.traffic import Traffic

SPEC = LoadSpec(loads={"a": Traffic()}, concurrency=(1, 4), request_rates=(2.5,), goodput={"ttft": 100})
RESULT = {
    "completed": 32,
    "failed": 0,
    "duration": 2.0,
    "output_lens": [64] * 32,
    "errors": [""] * 32,
    "mean_e2el_ms": 400.0,
    "mean_ttft_ms": 55.0,
    "mean_tpot_ms": 5.3,
    "mean_itl_ms": 5.2,
    "p50_e2el_ms": 390.0,
    "p90_e2el_ms": 410.0,
    "p99_e2el_ms": 420.0,
    "output_throughput": 1024.0,
    "total_output_tokens": 2048,
}


def histogram(name: str, mean_ms: float, n: int = 32) -> dict[str, float]:
    return {f"{name}_sum": mean_ms * n / 1000, f"{name}_count": n}


DELTA = {
    "prompt_tokens_total": 3200.0,
    "generation_tokens_total": 2048.0,
    **histogram("request_time_per_output_token_seconds", 5.25),
    **histogram("time_to_first_token_seconds", 50.0),
    **histogram("e2e_request_latency_seconds", 390.0),
    **histogram("request_queue_time_seconds", 1.0),
    **histogram("request_prefill_time_seconds", 20.0),
    **histogram("request_decode_time_seconds", 330.0),
}


def test_a_cell_for_each_trial_and_the_trials_outermost():
    points = Load().points(SPEC)
    assert len(points) == 3 * 3
    assert points[:3] == [
        {"load": "a", "concurrency": 1, "trial": 1},
        {"load": "a", "concurrency": 4, "trial": 1},
        {"load": "a", "request_rate": 2.5, "trial": 1},
    ]
    identities = [str(Load().identity(SPEC, p)) for p in points]
    assert len(set(identities)) == len(points)


def test_a_spec_without_a_point_is_refused():
    with pytest.raises(ValidationError, match="neither concurrency nor request_rates"):
        LoadSpec(loads={"a": Traffic()})


def test_a_clean_trial_breaks_no_rule():
    assert broken_rules(RESULT, DELTA, 32, 64) == []


@pytest.mark.parametrize(
    ("result", "delta", "said"),
    [
        (
            {"completed": 30, "errors": ["Traceback\nConnectionError: gone"]},
            {},
            "2 of 32 requests failed: ConnectionError: gone",
        ),
        ({"completed": 0, "errors": []}, {}, "32 of 32 requests failed"),
        ({"output_lens": [64] * 31 + [3]}, {}, "1 answers have other than 64 tokens (first: 3)"),
        ({}, {"prefix_cache_hits_total": 16.0}, "16 tokens came from the prefix cache"),
        ({}, {"mm_cache_hits_total": 2.0}, "2 pictures came from the processor cache"),
        ({}, {"num_preemptions_total": 1.0}, "preempted"),
    ],
)
def test_broken_rules(result, delta, said):
    assert said in "; ".join(broken_rules(RESULT | result, DELTA | delta, 32, 64))


def test_the_client_is_believed_where_the_server_agrees():
    found = client_metrics(RESULT, DELTA, SPEC)
    assert (found["mean_tpot_ms"].value, found["mean_tpot_ms"].source) == (5.3, "client")
    assert found["p90_e2el_ms"].value == 410.0
    assert found["p99_e2el_ms"].value is None and "too few" in found["p99_e2el_ms"].reason


def test_bursts_leave_the_servers_word_and_no_percentiles():
    burst = RESULT | {"mean_tpot_ms": 0.2, "mean_ttft_ms": 390.0, "p50_ttft_ms": 389.0}
    found = client_metrics(burst, DELTA, SPEC)
    assert (found["mean_tpot_ms"].value, found["mean_tpot_ms"].source) == (pytest.approx(5.25), "server")
    assert (found["mean_ttft_ms"].value, found["mean_ttft_ms"].source) == (pytest.approx(50.0), "server")
    assert found["p50_ttft_ms"].value is None and "bursts" in found["p50_ttft_ms"].reason
    assert (found["mean_e2el_ms"].value, found["mean_e2el_ms"].source) == (400.0, "client")


def test_a_server_without_histograms_gives_none_with_the_reason():
    found = client_metrics(RESULT, {}, SPEC) | server_metrics(RESULT, {})
    for name in ("mean_tpot_ms", "server_ttft_ms", "input_ms"):
        assert found[name].value is None and found[name].reason


def test_a_request_that_waits_outside_the_engine_is_input_bound():
    class Quiet:
        throttling: set[str] = set()

    metrics = client_metrics(RESULT, DELTA, SPEC) | server_metrics(RESULT, DELTA)
    assert metrics["input_ms"].value == pytest.approx(400 - 351)
    assert labels(metrics, Quiet()) == []
    metrics["input_ms"] = Metric(value=300.0, unit="ms")
    assert labels(metrics, Quiet()) == ["input-bound"]


def test_traffic_that_the_engine_does_not_take():
    settings = EngineSettings(max_model_len=100, max_num_seqs=2, images_per_prompt=0, cpu_offload_gb=3)
    said = " ".join(str(f) for f in Load().faults(SPEC, [{"load": "a", "concurrency": 4, "trial": 1}], settings))
    for word in ("images_per_prompt", "max_model_len", "max_num_seqs", "cpu_offload_gb"):
        assert word in said


def test_prompts_are_random_pictures_noise_and_the_answers_length_is_forced(tmp_path):
    class Served:
        url, name, checkpoint = "http://h", "m", tmp_path

    given = load.arguments(Served(), Traffic(image_size=(640, 480)), 8, 7, spec=SPEC, rate=2.5)
    text = " ".join(given)
    for part in (
        "{(480,640,1):1.0}",
        "--seed 7",
        "--request-rate 2.5",
        "--ignore-eos",
        "--num-warmups 0",
        "--goodput ttft:100",
    ):
        assert part in text
    assert "--max-concurrency" not in text


def test_sampling_is_passed_on_and_tokens_are_the_likeliest_without_it(tmp_path):
    drawn = Traffic(sampling={"temperature": 0.8, "top_p": 0.95, "top_k": 20})
    running = SimpleNamespace(url="http://x", name="m", checkpoint=tmp_path)
    said = " ".join(load.arguments(running, drawn, 4, 0))
    assert "--temperature 0.8 --top-p 0.95 --top-k 20" in said
    said = " ".join(load.arguments(running, Traffic(), 4, 0))
    assert "--temperature 0 " in said and "--top-p" not in said


def test_sampling_changes_a_cells_identity_and_its_absence_is_no_part_of_it():
    spec = LoadSpec(loads={"greedy": Traffic(), "drawn": Traffic(sampling={})}, concurrency=(1,))
    greedy, drawn = (load.Load().identity(spec, p)["traffic"] for p in load.Load().points(spec)[:2])
    assert "sampling" not in greedy and drawn["sampling"]["temperature"] == 0.7
