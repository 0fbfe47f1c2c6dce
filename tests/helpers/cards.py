"""A model card, and the block in one."""

from __future__ import annotations

from reports.card.edit import BEGIN, END

CARD = """---
license: Apache License 2.0  # mine
tags:
- "1.0"
- awq   # kept

# about the tasks
tasks: [visual-question-answering]
##new_version: x
domain:
  - multi-modal
base_model:   'old/name'   # where from
---

# My model

Hand-written, with 中文 and émojis 🐟.
"""


def block_of(card: str) -> str:
    return card[card.index(BEGIN) : card.index(END) + len(END)]
