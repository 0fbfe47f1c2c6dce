"""How vLLM serves a variant: the suite's `engine` section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from harness.util.strict import Strict


def _as_text(value: Any) -> Any:
    """Environment variables are texts; YAML reads 1 as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class EngineSettings(Strict):
    """How vLLM serves every variant of the suite; both arms get the same."""

    dtype: Literal["bfloat16", "float16", "float32", "auto"] = "bfloat16"
    """Type of the activations and of the weights that are not packed."""
    max_model_len: int | None = Field(default=None, gt=0)
    """Longest prompt plus answer in tokens; null takes the model's own limit."""
    max_num_seqs: int = Field(default=32, gt=0)
    """Requests the engine runs at once."""
    max_num_batched_tokens: int | None = Field(default=None, gt=0)
    """Tokens the engine runs in one step; null takes vLLM's choice."""
    images_per_prompt: int = Field(default=1, ge=0)
    """Images allowed in one request. A document with more is refused before the engine starts."""
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=1)
    """Share of a GPU's memory that vLLM may fill. Not used on a CPU."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """KV cache in GiB, the same for every variant; null lets vLLM fill what is left (on a CPU: 1 GiB)."""
    enforce_eager: bool | None = None
    """No compilation and no graphs; null is true on a CPU, false on a GPU."""
    tensor_parallel_size: int = Field(default=1, gt=0)
    """GPUs that share one engine."""
    cpu_offload_gb: float = Field(default=0, ge=0)
    """GiB of weights kept in host memory, for cards that are too small. Makes speed meaningless."""
    seed: int = 0
    """vLLM's seed."""
    start_timeout_s: float = Field(default=900, gt=0)
    """How long a start may take, in seconds."""
    port: int | None = Field(default=None, gt=0, lt=65536)
    """Port on the loopback address; null takes a free one."""
    extra_args: tuple[str, ...] = ()
    """Further arguments of `vllm serve`, as they are."""
    env: dict[str, Annotated[str, BeforeValidator(_as_text)]] = {}
    """Environment variables of the engine's processes."""

    def outcome_fields(self) -> dict[str, Any]:
        """The fields that can change what is measured: all but where it listens and how long it may start."""
        return self.model_dump(mode="json", exclude={"start_timeout_s", "port"})
