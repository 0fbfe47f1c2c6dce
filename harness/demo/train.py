"""Trains the demo model: `python -m harness.demo.train --out DIR --minutes M`, on one CUDA GPU (a CPU for a trial).

Writes DIR/model (the checkpoint), DIR/training.json (all figures) and DIR/answers.csv (every held-out answer).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import sys
import time
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from harness.demo import checkpoint, data, evaluate
from harness.demo.network import IMAGE_TOKENS, TEXT_TOKENS, BatchedForward, build_model
from harness.demo.shards import IGNORE, LABEL_CLASSES, LABEL_SLOTS, SHARD, Samples, ShardFeed
from harness.demo.tokenizer import build_tokenizer

PEAK_RATE = 1.5e-3
WARM_UP_STEPS = 300
HEAD_SHARE = 0.7
"""The share of the run over which the weight of the picture heads goes from 1 to 0."""


class Learner(nn.Module):
    """The model's loss on answers, and a training-only head that names what each picture holds.

    The head reads the flattened image tokens. Without it the vision tower gets no signal it can follow, and nothing
    is learned for a long time.
    """

    def __init__(self, forward: BatchedForward) -> None:
        super().__init__()
        self.network = forward
        self.head = nn.Linear(IMAGE_TOKENS * 256, LABEL_SLOTS * LABEL_CLASSES)

    def forward(
        self, pixels: Tensor, tokens: Tensor, spans: Tensor, labels: Tensor, head_weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The mean loss an answer token, and the mean loss a picture label; to be minimised as their weighted sum."""
        seen, deepstack = self.network.see(pixels)
        logits = self.network.model.lm_head(self.network.read(seen, deepstack, tokens[:, :-1]))
        columns = torch.arange(1, tokens.shape[1], device=tokens.device)
        wanted = (columns >= spans[:, :1]) & (columns < spans[:, 1:])
        targets = torch.where(wanted, tokens[:, 1:], IGNORE)
        answer_loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE)
        named = self.head(seen.flatten(1)).view(-1, LABEL_CLASSES)
        label_loss = F.cross_entropy(named.float(), labels.flatten(), ignore_index=IGNORE)
        return answer_loss + head_weight * label_loss, answer_loss.detach()


class Pool:
    """Training samples on the device, filled as shards arrive; batches are drawn at random with replacement."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        side = data.drawing.SIZE
        self.pixels = torch.empty((capacity, side, side, 3), dtype=torch.uint8, device=device)
        self.tokens = torch.empty((capacity, TEXT_TOKENS), dtype=torch.int16, device=device)
        self.spans = torch.empty((capacity, 2), dtype=torch.int16, device=device)
        self.labels = torch.empty((capacity, LABEL_SLOTS), dtype=torch.int16, device=device)
        self.filled = 0

    def add(self, samples: Samples) -> None:
        part = slice(self.filled, self.filled + len(samples.tokens))
        for name in ("pixels", "tokens", "spans", "labels"):
            getattr(self, name)[part] = torch.from_numpy(getattr(samples, name)).to(self.pixels.device)
        self.filled = part.stop

    def draw(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = torch.randint(self.filled, (batch,), device=self.pixels.device)
        return self.pixels[rows], self.tokens[rows].long(), self.spans[rows].long(), self.labels[rows].long()


def _optimizer(learner: Learner, device: torch.device) -> torch.optim.AdamW:
    """AdamW; norms, biases and embeddings do not decay."""
    matrices = [p for n, p in learner.named_parameters() if p.ndim > 1 and "embed" not in n]
    rest = [p for n, p in learner.named_parameters() if p.ndim <= 1 or "embed" in n]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=device.type == "cuda")


def fit(
    learner: Learner, pool: Pool, feed: ShardFeed, tests: evaluate.TestSet, minutes: float, batch: int
) -> dict[str, int | float | list]:
    """Trains for `minutes` after compilation, the rate falling along a cosine to 0; returns steps and the curve.

    The curve holds accuracy on the first 500 held-out questions as well: it is there to be seen, nothing reads it.
    """
    device = pool.pixels.device
    optimizer = _optimizer(learner, device)
    step_loss = torch.compile(learner) if device.type == "cuda" else learner
    head_weight = torch.ones((), device=device)
    started, step, losses, curve, last_print = None, 0, [], [], 0.0
    while True:
        if step == 10:  # compiled by now
            started = time.monotonic()
        elapsed = time.monotonic() - started if started else 0.0
        progress = elapsed / (60 * minutes)
        if progress >= 1:
            break
        if step % 5 == 0:
            for samples in feed.ready():
                pool.add(samples)
        rate = PEAK_RATE * min(1, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate
        head_weight.fill_(max(0.0, 1 - progress / HEAD_SHARE))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, answer_loss = step_loss(*pool.draw(batch), head_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        losses.append(answer_loss)
        step += 1
        if len(losses) == 100 or elapsed - last_print > 10:
            mean = float(torch.stack(losses).mean())
            losses = []
            if elapsed - last_print > 10 or last_print == 0:
                last_print = elapsed
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    accuracy = evaluate.quick_accuracy(learner.network, tests, 500)
                point = {"seconds": round(elapsed, 1), "step": step, "answer_loss": round(mean, 5)}
                curve.append(point | {"held_out_percent": accuracy})
                _say(f"{elapsed:6.1f} s  step {step}  loss {mean:.4f}  held-out {accuracy} %  samples {pool.filled}")
    return {"steps": step, "seconds": round(elapsed, 1), "batch": batch, "samples": pool.filled, "curve": curve}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write_answers(path: Path, questions: list[data.Question], columns: dict[str, list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "level", "question", "right", *columns])
        for row, question in enumerate(questions):
            hardness = data.level("test", 0, row)
            given = [answers[row] for answers in columns.values()]
            writer.writerow([question.id, f"{hardness:.3f}", question.question, question.answer, *given])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, default=5.4, help="training time; compilation and tests come on top")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--samples", type=int, default=1_600_000, help="training questions to make, at most")
    parser.add_argument("--first-samples", type=int, default=60_000, help="how many to wait for before training")
    parser.add_argument("--tests", type=int, default=data.TEST_COUNT, help="held-out questions")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()

    began = time.monotonic()
    torch.manual_seed(arguments.seed)
    tokenizer = build_tokenizer()
    shard_count = -(-arguments.samples // SHARD)
    with ShardFeed("train", arguments.seed, shard_count, TEXT_TOKENS, arguments.workers) as feed:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = True
        model = build_model(tokenizer).to(device)
        learner = Learner(BatchedForward(model, tokenizer)).to(device)
        pool = Pool(shard_count * SHARD, device)
        tests = evaluate.TestSet.make(tokenizer, arguments.tests, device)
        while pool.filled < min(arguments.first_samples, shard_count * SHARD):
            for samples in feed.ready(wait_s=60):
                pool.add(samples)
        _say(f"{time.monotonic() - began:.1f} s: {pool.filled} samples")
        training = fit(learner, pool, feed, tests, arguments.minutes, arguments.batch)
    _say(f"{time.monotonic() - began:.1f} s: trained, {training['steps']} steps")

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    written = checkpoint.save(model, tokenizer, arguments.out / "model")
    difference = evaluate.check_against_transformers(written, tokenizer, tests)
    answers, disturbances, others = evaluate.sensitivity(written, tokenizer, tests)
    report = {
        "accuracy_percent": evaluate.score(tests.questions, answers),
        "disturbed": disturbances,
        "test_questions": arguments.tests,
        "training": training,
        "parameters": sum(p.numel() for p in model.parameters()),
        "largest_logit_difference_to_transformers": difference,
        "seed": arguments.seed,
        "command_seconds": round(time.monotonic() - began, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    (arguments.out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _write_answers(arguments.out / "answers.csv", tests.questions, {"bf16": answers, **others})
    print(json.dumps({k: v for k, v in report.items() if k != "training"}, indent=2))


if __name__ == "__main__":
    main()
