"""Latency and throughput: traffic from `vllm bench serve` against the running engine, one Cell a trial."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harness.engine.load_client import LoadClient
from harness.engine.monitor import Monitor
from harness.engine.server import Engine
from harness.engine.session import Session
from harness.engine.settings import EngineSettings
from harness.record.records import Metric
from harness.util.errors import CellFailed, Fault
from harness.util.strict import Name, Strict
from harness.workloads import roofline
from harness.workloads.base import Context, Measurement, Workload
from harness.workloads.traffic import Traffic, arguments, traffic_faults

UNITS = {
    "request_throughput": "requests/s",
    "request_goodput": "requests/s",
    "output_throughput": "tokens/s",
    "total_token_throughput": "tokens/s",
    "duration": "s",
}
HISTOGRAMS = {
    "server_ttft_ms": "time_to_first_token_seconds",
    "server_tpot_ms": "request_time_per_output_token_seconds",
    "server_e2el_ms": "e2e_request_latency_seconds",
    "queue_ms": "request_queue_time_seconds",
    "prefill_ms": "request_prefill_time_seconds",
    "decode_ms": "request_decode_time_seconds",
}
"""vLLM's histograms in /metrics; the delta of their sums over the delta of their counts is a mean."""
BURSTS = "answers came in bursts: the client's clock does not agree with the server's"
CLIENT_AGREES = 0.15
"""How far the client's mean time per output token may be from the server's before its clock is not believed: answers that
arrive in bursts (many tokens in one packet) look as if their first token came with the last."""
INPUT_BOUND = 0.5
"""Share of a request's time outside the engine (HTTP, tokens, pictures) above which the Cell says nothing of the model."""


class LoadSpec(Strict):
    """Requests sent by `vllm bench serve`, each trial a Cell of its own."""

    loads: dict[Name, Traffic] = Field(min_length=1)
    """The kinds of traffic, by name."""
    concurrency: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Closed loop: so many requests in flight, one point each."""
    request_rates: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Open loop: requests arrive at so many a second on average (Poisson), one point each."""
    requests: int = Field(default=32, gt=0)
    """Requests of a trial; never fewer than twice the concurrency."""
    trials: int = Field(default=3, gt=0)
    """How often a point is measured. Fewer than 3 give no interval worth printing."""
    percentiles: tuple[Annotated[int, Field(gt=0, lt=100)], ...] = (50, 90, 99)
    """Percentiles of the latencies; one needs at least 100 / (100 - P) requests behind it."""
    goodput: dict[Literal["ttft", "tpot", "e2el"], Annotated[float, Field(gt=0)]] = {}
    """The objective in milliseconds that a request must meet to count in `request_goodput`."""
    seed: int = 0
    """Of the prompts, pictures and arrivals; each trial adds its number, so no prompt comes twice."""

    @model_validator(mode="after")
    def _some_point(self) -> LoadSpec:
        if not self.concurrency and not self.request_rates:
            raise ValueError("names neither concurrency nor request_rates, so nothing would be measured")
        return self


class Load(Workload):
    """What `latency` and `throughput` share: the two differ in what is asked of them, not in how it is measured."""

    Spec = LoadSpec
    timed = True
    under_load = True
    own_tables = True

    def points(self, spec: LoadSpec) -> list[dict[str, Any]]:
        """Trials outermost, so that what drifts meets every point alike."""
        flow = [{"concurrency": c} for c in spec.concurrency] + [{"request_rate": r} for r in spec.request_rates]
        return [
            {"load": name, **one, "trial": trial} for trial in range(1, spec.trials + 1) for name in spec.loads for one in flow
        ]

    def identity(self, spec: LoadSpec, point: dict[str, Any]) -> dict[str, Any]:
        same = spec.model_dump(mode="json", include={"requests", "percentiles", "goodput", "seed"})
        return same | {"traffic": spec.loads[point["load"]].model_dump(mode="json", exclude_none=True), **point}

    def faults(self, spec: LoadSpec, points: list[dict[str, Any]], settings: EngineSettings) -> list[Fault]:
        found = [f for name, traffic in spec.loads.items() for f in traffic_faults(traffic, f"loads.{name}", settings)]
        wide = sorted({p["concurrency"] for p in points if p.get("concurrency", 0) > settings.max_num_seqs})
        if wide:
            what = f"is {', '.join(map(str, wide))}, but the engine runs {settings.max_num_seqs} requests at once"
            found.append(Fault("concurrency", what, "raise engine.max_num_seqs"))
        if settings.cpu_offload_gb:
            what = "keeps weights in host memory, so the speed would be the bus's"
            found.append(Fault("engine.cpu_offload_gb", what, "measure accuracy alone with it"))
        return found

    @classmethod
    def start(cls, session: Session) -> None:
        _ = session.client

    @classmethod
    def before_engines(cls, session: Session) -> None:
        session.client.settle()
        roofline.rates()

    def measure(self, cell: Context) -> Measurement:
        engine, spec, point, progress = cell.engine, cell.spec, cell.point, cell.progress
        traffic, concurrency = spec.loads[point["load"]], point.get("concurrency")
        requests = max(spec.requests, 2 * (concurrency or 1))
        flow = {"concurrency": concurrency, "rate": point.get("request_rate")}
        seed = 1000 * spec.seed + 2 * point["trial"]
        client = cell.session.client
        # As wide as what follows, and never the same prompts: whatever is made on first use is made now.
        wide = concurrency or min(engine.settings.max_num_seqs, requests)
        client.ask("bench", arguments(engine, traffic, wide, seed + 1, concurrency=wide))
        progress(0, requests, f"{point['load']}, {requests} requests")
        before = engine.metrics()
        with Monitor(engine.root, engine.settings.tensor_parallel_size) as monitor:
            result = client.ask("bench", arguments(engine, traffic, requests, seed, spec=spec, **flow))
        delta = {name: value - before.get(name, 0.0) for name, value in engine.metrics().items()}
        progress(requests, requests, f"{point['load']}, {requests} requests")
        measured = Measurement({})
        broken = broken_rules(result, delta, requests, traffic.output_len)
        if broken:
            measured.status, measured.reason = "invalid", "; ".join(broken)
        metrics = client_metrics(result, delta, spec) | server_metrics(result, delta)
        if traffic.images:
            metrics["image_preprocess_ms"] = _preprocess(client, engine, traffic)
        window = (result["began"], result["began"] + result["duration"])
        metrics |= energy_metrics(monitor, window, result.get("total_output_tokens") or 0)
        if not broken:
            metrics |= roofline.share(engine, delta, metrics, concurrency)
        measured.metrics = metrics
        measured.labels = labels(metrics, monitor)
        measured.facts = {"command": "vllm bench serve", "throttling": sorted(monitor.throttling), "rates": roofline.rates()}
        return measured


def broken_rules(result: dict[str, Any], delta: dict[str, float], requests: int, output_len: int) -> list[str]:
    """What forbids computing anything from a trial; the command's exit status says nothing of it."""
    found = []
    completed = int(result.get("completed", 0))
    if completed != requests:
        told = [str(error).strip() for error in result.get("errors", []) if str(error).strip()]
        first = told[0].splitlines()[-1][:200] if told else "no error told"
        found.append(f"{requests - completed} of {requests} requests failed: {first}")
    short = [n for n in result.get("output_lens", []) if n != output_len]
    if short and completed == requests:
        found.append(f"{len(short)} answers have other than {output_len} tokens (first: {short[0]})")
    for name, what in (
        ("prefix_cache_hits_total", "tokens came from the prefix cache"),
        ("mm_cache_hits_total", "pictures came from the processor cache"),
        ("num_preemptions_total", "requests were preempted: the KV cache is too small for this load"),
    ):
        if delta.get(name, 0) > 0:
            found.append(f"{delta[name]:.0f} {what}")
    return found


def client_metrics(result: dict[str, Any], delta: dict[str, float], spec: LoadSpec) -> dict[str, Metric]:
    """vLLM's bench keys. Times of first and further tokens only where the client's clock agrees with the server's."""
    n = int(result.get("completed", 0))
    found = {name: Metric(value=result.get(name), unit=unit, n=n, source="client") for name, unit in UNITS.items()}
    if not spec.goodput:
        found.pop("request_goodput")
    server = mean_of(delta, HISTOGRAMS["server_tpot_ms"])
    bursts = server is None or abs(result.get("mean_tpot_ms", 0.0) - server) > CLIENT_AGREES * server
    for kind in ("e2el", "ttft", "tpot", "itl"):
        believed = kind == "e2el" or not bursts
        for percentile in (None, *spec.percentiles):
            name = f"mean_{kind}_ms" if percentile is None else f"p{percentile}_{kind}_ms"
            if not believed:
                found[name] = Metric.missing("ms", BURSTS, "client")
            elif percentile is not None and n * (100 - percentile) < 100:
                found[name] = Metric.missing("ms", f"{n} requests are too few for this percentile", "client")
            else:
                found[name] = Metric(value=result.get(name), unit="ms", n=n, source="client")
    if bursts:
        for kind in ("ttft", "tpot"):
            found[f"mean_{kind}_ms"] = _mean_metric(delta, HISTOGRAMS[f"server_{kind}_ms"])
    return found


def _mean_metric(delta: dict[str, float], histogram: str) -> Metric:
    value = mean_of(delta, histogram)
    if value is None:
        return Metric.missing("ms", "the server's /metrics have no such histogram, or it took up nothing", "server")
    return Metric(value=value, unit="ms", n=int(delta[f"{histogram}_count"]), source="server")


def mean_of(delta: dict[str, float], histogram: str) -> float | None:
    """Mean in ms of what a histogram of seconds in /metrics took up in between; None when it took up nothing."""
    count = delta.get(f"{histogram}_count", 0)
    return 1000 * delta.get(f"{histogram}_sum", 0.0) / count if count else None


def server_metrics(result: dict[str, Any], delta: dict[str, float]) -> dict[str, Metric]:
    """Means from the server's histograms, and the rest of a request's time, which it spent outside the engine."""
    found = {name: _mean_metric(delta, histogram) for name, histogram in HISTOGRAMS.items()}
    inside = [found[name].value for name in ("queue_ms", "prefill_ms", "decode_ms")]
    whole = result.get("mean_e2el_ms")
    if whole is None or None in inside:
        found["input_ms"] = Metric.missing("ms", "needs the server's queue, prefill and decode times", "computed")
    else:
        outside = whole - sum(v for v in inside if v is not None)
        found["input_ms"] = Metric(value=outside, unit="ms", n=found["queue_ms"].n, source="computed")
    prompt, n = delta.get("prompt_tokens_total"), int(result.get("completed", 0))
    found["prompt_tokens"] = Metric(value=prompt / n if prompt and n else None, unit="tokens", n=n, source="server")
    return found


_preprocessing: dict[tuple[str, tuple[int, int]], Metric] = {}


def _preprocess(client: LoadClient, engine: Engine, traffic: Traffic) -> Metric:
    """What one picture takes on this processor before the model sees it, measured apart, once a size."""
    key = (str(engine.checkpoint), traffic.image_size)
    if key not in _preprocessing:
        try:
            given = {"checkpoint": key[0], "size": list(traffic.image_size), "repeats": 5}
            told = client.ask("preprocess", given)
            _preprocessing[key] = Metric(value=told["median_ms"], unit="ms", n=told["n"], source="microbenchmark")
        except CellFailed as error:
            _preprocessing[key] = Metric.missing("ms", str(error), "microbenchmark")
    return _preprocessing[key]


def energy_metrics(monitor: Monitor, window: tuple[float, float], tokens: int) -> dict[str, Metric]:
    """Energy of the time between the first request and the last answer, and per token; power, clocks, temperature."""
    found = monitor.metrics(window)
    found.pop("process_peak_gib", None)
    energy = found["energy_j"] = monitor.energy(window)
    each = energy.value / tokens if energy.value is not None and tokens else None
    found["energy_per_output_token_j"] = Metric(value=each, unit="J", n=tokens, reason=energy.reason, source="computed")
    return found


def labels(metrics: dict[str, Metric], monitor: Monitor) -> list[str]:
    """What must be known when a trial's figures are read."""
    found = []
    outside, whole = metrics["input_ms"].value, metrics["mean_e2el_ms"].value
    if outside is not None and whole and outside > INPUT_BOUND * whole:
        found.append("input-bound")
    if monitor.throttling:
        found.append("throttled")
    return found
