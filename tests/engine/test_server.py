"""What is read from a server's log, what it is started with, and a start that fails. Real starts are in tests/e2e."""

from __future__ import annotations

import json
import sys
import time

import pytest

from harness.engine import log, server
from harness.engine.session import Session
from harness.engine.settings import EngineSettings
from harness.util import environments
from harness.util.errors import CellFailed

# Lines as vLLM 0.26.0 wrote them on a GPU and 0.32.0 on a CPU.
GPU_LOG = """\
(EngineCore pid=301) INFO 11-25 10:00:01 [compressed_tensors_wNa16.py:108] Using MacheteLinearKernel for CompressedTensorsWNA16
(EngineCore pid=301) INFO 11-25 10:00:09 [gpu_model_runner.py:4800] Model loading took 7.39 GiB memory and 5.1 seconds
(EngineCore pid=301) INFO 11-25 10:00:30 [kv_cache_utils.py:1316] GPU KV cache size: 423,696 tokens
(EngineCore pid=301) INFO 11-25 10:00:30 [gpu_worker.py:479] Available KV cache memory: 58.18 GiB
(EngineCore pid=301) INFO 11-25 10:00:50 [gpu_model_runner.py:6582] Graph capturing finished in 11 secs, took 0.62 GiB
(EngineCore pid=301) INFO 11-25 10:00:51 [gpu_worker.py:857] Free memory on device (78.7/79.18 GiB) on startup. Desired GPU \
memory utilization is (0.85, 67.3 GiB). Actual usage is 7.39 GiB for weight, 1.4 GiB for peak activation, 0.14 GiB for \
non-torch memory, and 0.62 GiB for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=1`
"""
CPU_LOG = """\
(Worker pid=12) INFO 11-26 00:33:37 [x.py:1] Using CPUWNA16LinearKernel for CompressedTensorsWNA16
(Worker pid=12) INFO 11-26 00:33:37 [default_loader.py:501] Loading weights took 0.02 seconds
(EngineCore pid=11) INFO 11-26 00:33:39 [kv_cache_utils.py:2327] CPU KV cache size: 1,048,576 tokens, Maximum concurrency
"""


def test_facts_of_a_gpu_log():
    facts = log.read_facts(GPU_LOG, [], 71.0)
    assert (facts.kernel, facts.weights_gib, facts.kv_cache_tokens) == ("MacheteLinearKernel", 7.39, 423_696)
    assert (facts.kv_cache_gib, facts.graphs_gib, facts.activations_gib, facts.non_torch_gib) == (58.18, 0.62, 1.4, 0.14)
    assert facts.reasons == {}


def test_facts_of_a_cpu_log_are_none_with_a_reason():
    facts = log.read_facts(CPU_LOG, [], 25.0)
    assert (facts.kernel, facts.weights_gib, facts.kv_cache_tokens) == ("CPUWNA16LinearKernel", None, 1_048_576)
    assert "weights_gib" in facts.reasons
    nothing = log.read_facts("", [], 1.0)
    unknown = {name for name, value in nothing.model_dump().items() if value is None}
    assert (
        unknown - {"kernel", "driver", "scheme_bits", "computed_as"}
        == set(nothing.reasons)
        > {"weights_gib", "kv_cache_tokens"}
    )


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("[compressed_tensors_wNa16.py:108] Using MarlinLinearKernel for CompressedTensorsWNA16", "CompressedTensorsWNA16"),
        ("[__init__.py:797] Selected CutlassFP8ScaledMMLinearKernel for CompressedTensorsW8A8Fp8", "CompressedTensorsW8A8Fp8"),
        ("[__init__.py:846] Selected CPUInt8ScaledMMLinearKernel for CompressedTensorsW8A8Int8", "CompressedTensorsW8A8Int8"),
        ("[__init__.py:1240] Using MarlinNvFp4LinearKernel for NVFP4 GEMM", "NVFP4 GEMM"),
        ("[__init__.py:1028] Using FlashInferMxFp4LinearKernel for MXFP4 GEMM", "MXFP4 GEMM"),
        ("[auto_gptq.py:352] Using MacheteLinearKernel for AutoGPTQLinearMethod", "AutoGPTQLinearMethod"),
        ("[auto_awq.py:451] Using MarlinLinearKernel for AutoAWQMarlinLinearMethod", "AutoAWQMarlinLinearMethod"),
    ],
)
def test_the_kernel_of_every_scheme_is_read(line: str, named: str):
    text = f"(EngineCore pid=301) INFO 11-30 17:01:59 {line}\n"
    ((kernel, layers),) = log.kernels_named(text * 2)
    assert layers == named and log.read_facts(text, [], 1.0).kernels == {kernel: None}
    assert log.kernels_named("INFO [x.py:1] Using FlashAttention backend for attention\n") == []


def test_weights_that_were_not_loaded_are_kept_as_warnings():
    text = CPU_LOG + "WARNING 11-26 [qwen3.py:1] Parameter visual.blocks.0.attn.qkv.weight_packed not found in params_dict\n"
    assert "visual.blocks.0" in log.read_facts(text, [], 1.0).warnings[0]


def test_the_last_exception_of_a_log():
    text = (
        "(EngineCore pid=9) ERROR 11-26 00:01:02 [core.py:1] Traceback\n"
        "(EngineCore pid=9) ERROR 11-26 00:01:02 [core.py:1] ValueError: no KV cache blocks\n"
        "(APIServer pid=8) RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert log.last_error(text) == "ValueError: no KV cache blocks"
    assert log.last_error("only words\n") == "only words"
    assert log.last_error("") == "it printed nothing"
    later = "OSError: no space left\nWARNING 11-26 00:01:02 [x.py:1] late\n/a/b.py:7: UserWarning: leaked\n  warnings.warn(\n"
    assert log.last_error(later) == "OSError: no space left" and log.last_error("it said why\n" + later[23:]) == "it said why"


def test_caches_are_off_and_no_generation_config_has_a_word(tmp_path):
    given = server.arguments(tmp_path, EngineSettings(images_per_prompt=2), "name")
    text = " ".join(given)
    for part in (
        "--no-enable-prefix-caching",
        "--mm-processor-cache-gb 0",
        "--generation-config vllm",
        "--seed 0",
        '--limit-mm-per-prompt {"image": 2, "video": 0}',
    ):
        assert part in text
    assert server.SAMPLING["temperature"] == 0 and server.SAMPLING["repetition_penalty"] == 1.0


def test_a_gpu_gets_its_memory_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "is_cpu", lambda: False)
    settings = EngineSettings(kv_cache_gib=2, cpu_offload_gb=4, tensor_parallel_size=2, gpu_memory_utilization=0.7)
    text = " ".join(server.arguments(tmp_path, settings, "name"))
    assert "--kv-cache-memory-bytes 2147483648" in text and "--cpu-offload-gb 4.0" in text
    assert "--gpu-memory-utilization 0.7" in text and "--tensor-parallel-size 2" in text
    assert "--enforce-eager" not in text


WAITS = """
import json, os, sys
given = json.loads(open(sys.argv[1]).readline())
log = open(given['log'], 'a')
os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
sys.argv = ['vllm', 'serve', *given['arguments']]
"""
"""What shims/vllm_serve.py does between importing and serving."""


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Starts a small program in vLLM's place."""

    def use(code: str, waits: str = WAITS) -> None:
        shims = tmp_path / "shims"
        shims.mkdir()
        (shims / "vllm_serve.py").write_text(waits + code)
        monkeypatch.setattr(environments, "SHIMS", shims)

    yield use


@pytest.fixture
def session():
    with Session() as made:
        yield made


@pytest.mark.parametrize("waits", ["", WAITS], ids=["while it imports", "while it starts"])
def test_a_server_that_dies_tells_its_last_error(stand_in, session, tmp_path, waits):
    stand_in("raise MemoryError('KV cache does not fit')", waits)
    with (
        pytest.raises(CellFailed, match="ended with status 1 while it started: MemoryError: KV cache does not fit"),
        session.serving(tmp_path, EngineSettings(), tmp_path / "log", "m"),
    ):
        pass


@pytest.mark.parametrize("waits", ["", WAITS], ids=["never imported", "never healthy"])
def test_a_server_that_never_answers_is_ended(stand_in, session, tmp_path, waits):
    stand_in("import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)", waits)
    began = time.monotonic()
    with (
        pytest.raises(CellFailed, match=r"not healthy after 1 s"),
        session.serving(tmp_path, EngineSettings(start_timeout_s=1), tmp_path / "log", "m"),
    ):
        pass
    assert time.monotonic() - began < 20
    pid = int((tmp_path / "log").read_text().split()[1])
    with pytest.raises(ProcessLookupError):
        import os

        os.kill(pid, 0)


SERVER = """
import http.server, json, sys
port = int(sys.argv[sys.argv.index('--port') + 1])
name = sys.argv[sys.argv.index('--served-model-name') + 1]
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({'data': [{'id': NAME}]}).encode() if 'models' in self.path else
                         b'vllm:prefix_cache_hits_total{engine="0"} 2.0\\nvllm:prefix_cache_hits_total{engine="1"} 3.0\\n')
http.server.HTTPServer(('127.0.0.1', port), H).serve_forever()
"""


def test_the_server_must_be_ours_and_its_counters_are_summed(stand_in, session, tmp_path):
    stand_in(SERVER.replace("NAME", "name"))
    with session.serving(tmp_path, EngineSettings(), tmp_path / "log", "mine") as running:
        assert running.metrics() == {"prefix_cache_hits_total": 5.0}
        assert running.alive()


def test_a_process_made_ahead_becomes_the_engine(stand_in, session, tmp_path):
    stand_in(SERVER.replace("NAME", "name"), "import time; time.sleep(0.5)" + WAITS)
    settings = EngineSettings()
    session.make_ahead(tmp_path, settings)
    made = session._ahead
    session.make_ahead(tmp_path, settings)
    assert session._ahead is made and not made.waits()
    session.settle(30)
    assert made.waits()
    with session.serving(tmp_path, settings, tmp_path / "log", "mine") as running:
        assert running._process is made.process and session._ahead is None
    assert made.ended() and not made._fifo.exists()


def test_a_process_made_for_other_variables_or_dead_is_not_taken(stand_in, session, tmp_path):
    stand_in(SERVER.replace("NAME", "name"))
    settings = EngineSettings(env={"VLLM_DISABLED_KERNELS": "MacheteLinearKernel"})
    session.make_ahead(tmp_path, EngineSettings())
    other = session._ahead
    with session.serving(tmp_path, settings, tmp_path / "log", "mine") as running:
        assert running._process is not other.process
    session.make_ahead(tmp_path, settings)
    assert other.ended()
    dead = session._ahead
    dead.process.kill()
    dead.process.wait()
    with session.serving(tmp_path, settings, tmp_path / "log", "mine") as running:
        assert running._process is not dead.process


def test_a_process_that_never_imports_is_waited_for_so_long_and_ended(stand_in, session, tmp_path):
    stand_in("", "import time; time.sleep(600)")
    session.make_ahead(tmp_path, EngineSettings())
    made = session._ahead
    session.settle(0.2)
    assert made.ended() and session._ahead is None


def test_somebody_elses_server_is_not_taken_for_ours(stand_in, session, tmp_path):
    stand_in(SERVER.replace("NAME", "'theirs'"))
    with (
        pytest.raises(CellFailed, match="not healthy"),
        session.serving(tmp_path, EngineSettings(start_timeout_s=2), tmp_path / "log", "mine"),
    ):
        pass


def test_a_kernel_in_a_form_that_is_not_known_is_said_to_be_unknown(stand_in, session, tmp_path):
    stand_in(SERVER.replace("NAME", "name"))
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
    with session.serving(tmp_path, EngineSettings(), tmp_path / "log", "mine") as engine:
        assert engine.facts.kernel is None and "names no kernel in a form that is known" in engine.facts.reasons["kernel"]


def test_the_two_environments_get_what_they_need(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    mine = environments.serve().variables({"X": "1"})
    assert "PYTHONDONTWRITEBYTECODE" not in mine and mine["X"] == "1"
    assert mine["PYTHONPATH"].endswith("/theirs") and str(environments.SHIMS) in mine["PYTHONPATH"]
    other = environments.Environment(environments.Path(sys.executable), (), ("/first",), inherits=False).variables()
    assert other["PYTHONPATH"].startswith("/first:") and "/theirs" not in other["PYTHONPATH"]
