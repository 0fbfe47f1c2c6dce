"""What may stand on a public page."""

from __future__ import annotations

import pytest

from reports.card import public


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see /home/bob/x.log.", "see x.log."),
        ("file:///home/bob/x.json", "x.json"),
        ("error:/home/bob/x", "error:x"),
        ("--root=/home/bob/models/", "--root=(a folder)"),
        ("`~/.cache/x`", "`x`"),
        ("['/data/a', '/data/b']", "['a', 'b']"),
        ("https://host/a/b/c", "https://host/a/b/c"),
        (r"re:^\w+\.visual\..*/x/y", r"re:^\w+\.visual\..*/x/y"),
        ("models/a/b, 28 / 0, tokens/s", "models/a/b, 28 / 0, tokens/s"),
    ],
)
def test_folders_of_this_machine_are_cut(text, shown):
    assert public.text(text) == shown


def test_secrets_are_left_out_and_settings_stay():
    given = ["serve", "--max-num-batched-tokens", "8192", "--tokenizer-mode", "auto", "--api-key", "x", "--hf-token=y"]
    shown = [*given[:6], "***", "--hf-token=***"]
    assert public.value({"arguments": given, "env": {"B": "x", "A": "y"}}) == {"arguments": shown, "env": ["A", "B"]}


def test_a_secret_of_the_environment_is_known_by_its_name(monkeypatch):
    monkeypatch.setenv("MY_ACCESS_TOKEN", "0123456789")
    monkeypatch.setenv("TOKENIZER_NAME", "Qwen2Tokenizer")
    assert public.secrets()["0123456789"] == "MY_ACCESS_TOKEN" and "Qwen2Tokenizer" not in public.secrets()
