"""lm-eval's client for chat completions, taught to keep what the server says beside the text. Imports lm-eval."""

from __future__ import annotations

from typing import Any, Protocol

from lm_eval.models.openai_completions import LocalChatCompletion

from harness.workloads.lm_eval import generation
from harness.workloads.lm_eval.questions import placed

ALL_IMAGES = 1000
"""lm-eval drops further pictures without a word; how many are allowed is checked before the engine starts."""


class Told(Protocol):
    """Who wants to know how far the asking is. All are called in the thread that asks."""

    def before_each(self) -> None:
        """A request is about to be sent; may wait."""

    def after_each(self) -> None:
        """Its answer is there."""

    def after_all(self) -> None:
        """All answers are there."""


class Answer(str):
    """A reply's text that remembers why it ended and how many tokens it took."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def of(cls, reply: dict[str, Any]) -> Answer:
        """The first choice of a chat-completions reply."""
        choice = reply["choices"][0]
        answer = cls(choice["message"]["content"] or "")
        answer.finish_reason = choice["finish_reason"] or "unknown"
        answer.prompt_tokens = reply["usage"]["prompt_tokens"]
        answer.completion_tokens = reply["usage"]["completion_tokens"]
        return answer


class ServedModel(LocalChatCompletion):
    """lm-eval's local-chat-completions against our engine: sampling said in full, no retry, nothing cached."""

    def __init__(
        self,
        url: str,
        name: str,
        concurrency: int,
        max_tokens: int | None,
        told: Told,
    ):
        super().__init__(
            base_url=f"{url}/v1/chat/completions",
            model=name,
            num_concurrent=max(2, concurrency),
            max_images=ALL_IMAGES,
            max_retries=1,
            tokenizer_backend=None,
            timeout=1800,
            eos_string="<|im_end|>",
        )
        self._max_tokens, self._told = max_tokens, told
        if concurrency == 1:
            self._concurrent = 1

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        answers: list[str] = super().generate_until(requests, disable_tqdm)
        self._told.after_all()
        return answers

    def _create_payload(
        self,
        messages: Any,
        generate: bool = False,
        gen_kwargs: dict[str, Any] | None = None,
        seed: int = 1234,
        eos: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        self._told.before_each()
        asked = dict(gen_kwargs or {})
        last = messages[-1] if isinstance(messages, list) and messages else {}
        if isinstance(last.get("content"), list):
            pictures = [part for part in last["content"] if part["type"] == "image_url"]
            text = "".join(part["text"] for part in last["content"] if part["type"] == "text")
            messages = [*messages[:-1], last | {"content": placed(text, pictures)}]
        payload: dict[str, Any] = super()._create_payload(messages, generate, dict(asked), seed, eos, **kwargs)
        return generation.carried(payload, asked, self._max_tokens)

    def parse_generations(self, outputs: Any, **_: Any) -> list[Answer]:
        """One Answer a reply. A reply without content is an empty answer, not a placeholder."""
        answers = [Answer.of(reply) for reply in (outputs if isinstance(outputs, list) else [outputs])]
        for _answer in answers:
            self._told.after_each()
        return answers
