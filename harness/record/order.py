"""The one random order in which pictures are asked when a verdict may come before the last question.

A picture's place follows from its pixels alone: whoever reads the samples later finds the order in which they were asked.
"""

from __future__ import annotations

import hashlib

SEED = 0
"""Part of every place, fixed before the first answer of any Run."""


def place(task: str, doc_id: str, image_hash: str) -> str:
    """Where a question stands: questions on one picture stand together, whatever their tasks; texts sort as places do.

    image_hash: see Sample; a question without a picture is placed by its task and id.
    """
    what = image_hash or f"{task}/{doc_id}"
    return hashlib.sha256(f"{SEED}|{what}".encode()).hexdigest()
