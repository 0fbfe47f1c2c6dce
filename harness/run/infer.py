"""One answer from vLLM: the step a user wants right after quantizing."""

from __future__ import annotations

from pathlib import Path

from harness.checkpoints.locate import resolve_model, served_faults
from harness.engine.session import Session
from harness.engine.settings import EngineSettings
from harness.util import pictures
from harness.util.errors import Fault, Refused
from harness.util.progress import Reporter
from harness.util.scratch import Scratch


def infer(
    checkpoint: str, images: list[Path], prompt: str, max_tokens: int, max_model_len: int | None, report: Reporter
) -> str:
    """Serve `checkpoint`, ask `prompt` about `images`, and return the answer's text; raises Refused or CellFailed."""
    folder = resolve_model(checkpoint)
    parts, faults = _pictures(images)
    for option, value in (("--max-tokens", max_tokens), ("--max-model-len", max_model_len)):
        if value is not None and value < 1:
            faults.append(Fault(option, f"is {value}", "use 1 or more"))
    Refused.if_any([*served_faults(folder), *faults])
    settings = EngineSettings(images_per_prompt=max(1, len(images)), max_model_len=max_model_len, max_num_seqs=1)
    with Scratch("infer") as logs:
        report.stage(f"starting vLLM on {folder}")
        log = logs / "vllm.log"
        with (
            Session() as session,
            session.serving(folder, settings, log, "model", lambda stage: report.stage(f"starting vLLM: {stage}")) as running,
        ):
            answer = running.chat([*parts, {"type": "text", "text": prompt}], max_tokens)
    return str(answer["choices"][0]["message"]["content"] or "")


def _pictures(paths: list[Path]) -> tuple[list[dict[str, object]], list[Fault]]:
    """Pictures as chat content, any format Pillow reads; a fault for each that it does not."""
    parts: list[dict[str, object]] = []
    faults = []
    for path in paths:
        try:
            url = pictures.png_url(pictures.opened(path.read_bytes()))
        except OSError as error:
            faults.append(Fault(str(path), error.strerror or str(error)))
        except ValueError as error:
            faults.append(Fault(str(path), str(error)))
        else:
            parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts, faults
