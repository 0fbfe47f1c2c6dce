"""lm-eval's own tasks offline, from a small file of the hub's schema; what their scorers guess; what cannot be asked."""

from __future__ import annotations

import io
import json

import datasets
import pytest
from PIL import Image

from harness.engine.settings import EngineSettings
from harness.record.samples import Sample
from harness.util.errors import CellFailed, Refused
from harness.workloads import tasks
from harness.workloads.accuracy import Accuracy, AccuracySpec
from harness.workloads.divergence import Divergence
from harness.workloads.lm_eval.questions import load, placed
from tests.helpers.chat_server import Server, engine_of, measured
from tests.helpers.records import ROOT

DEMO = str(ROOT / "harness/demo/model")
TASK = "mmmu_val_accounting"


def png(colour: str, size=(64, 48)) -> dict:
    picture = io.BytesIO()
    Image.new("RGB", size, colour).save(picture, format="PNG")
    return {"bytes": picture.getvalue(), "path": f"{colour}.png"}


def mmmu_row(number: int, question: str, images: dict, options="['$6', '$7', '$8', '$9']", answer="B", **more) -> dict:
    """A row with MMMU's columns."""
    row = {
        "id": f"validation_Accounting_{number}",
        "question": question,
        "options": options,
        "explanation": "",
        "img_type": "['Tables']",
        "answer": answer,
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice",
        "subfield": "Managerial Accounting",
    }
    pictures = {f"image_{i}": images.get(i) for i in range(1, 8)}
    return row | pictures | more


ROWS = [
    mmmu_row(1, "What is the cost in <image 1>?", {1: png("red")}),
    mmmu_row(2, "Compare <image 1> with <image 2>.", {1: png("red"), 2: png("blue")}),
    mmmu_row(3, "Read <image 1>.", {1: png("blue")}, options="[]", answer="42", question_type="open"),
    mmmu_row(4, "And <image 1>?", {1: png("blue")}),
]


@pytest.fixture(scope="module")
def mmmu(tmp_path_factory):
    """A folder with the hub's layout and schema, as `fetch dataset MMMU/MMMU` leaves it."""
    folder = tmp_path_factory.mktemp("MMMU") / "MMMU"
    (folder / "Accounting").mkdir(parents=True)
    features = datasets.Features({k: datasets.Image() if k.startswith("image_") else datasets.Value("string") for k in ROWS[0]})
    datasets.Dataset.from_list(ROWS, features=features).to_parquet(folder / "Accounting/validation-00000-of-00001.parquet")
    (folder / "Art").mkdir()
    (folder / "Art/validation-00000-of-00001.parquet").write_bytes(b"never read")
    return folder


def spec(folder, *names: str, **more) -> AccuracySpec:
    return AccuracySpec(tasks=names or (TASK,), datasets={"MMMU/MMMU": folder}, **({"concurrency": 2} | more))


def faults(given: AccuracySpec, settings=None, model: str = DEMO, names=(TASK,)) -> list[str]:
    points = [{"task": name} for name in names]
    kind = Accuracy()
    found = [str(f) for f in kind.preflight(given, points, settings or EngineSettings(images_per_prompt=2), model)]
    return found + [f"warning: {w}" for w in kind.warnings]


def ask(given: AccuracySpec, reply, tmp_path, name: str = TASK):
    server = Server(reply)
    return measured(Accuracy(), engine_of(server, tmp_path), given, {"task": name}), server.bodies


def test_mmmu_runs_offline_from_a_local_copy(mmmu, tmp_path):
    given = spec(mmmu)
    assert faults(given) == []
    got, bodies = ask(given, lambda *_: ("B", "stop"), tmp_path)
    values = {name: metric.value for name, metric in got.metrics.items()}
    assert (values["score"], values["guessed"], values["unparsed"]) == (0.75, 0, 0)
    assert values["chance"] == pytest.approx(3 / 4 / 4) and got.metrics["chance"].source == "choices"
    assert [s.doc_id for s in got.samples] == [row["id"] for row in ROWS]
    two = next(b for b in bodies if "Compare" in json.dumps(b))["messages"][-1]["content"]
    assert [part["type"] for part in two] == ["text", "image_url", "text", "image_url", "text"]
    assert "<image" not in json.dumps([p for p in two if p["type"] == "text"])


def test_a_guess_of_the_scorer_is_taken_out_and_its_share_reported(mmmu, tmp_path):
    given = spec(mmmu)
    unreadable, _ = ask(given, lambda *_: ("??", "stop"), tmp_path)
    values = {name: metric.value for name, metric in unreadable.metrics.items()}
    assert (values["score"], values["guessed"], values["unparsed"]) == (0.0, 0.75, 0.75)
    assert [s.parsed for s in unreadable.samples] == [False, False, True, False]


def test_the_copys_content_is_part_of_a_cells_identity(mmmu, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(mmmu, copy)
    point = {"task": TASK}
    before = Accuracy().identity(spec(copy), point)
    assert before == Accuracy().identity(spec(mmmu), point)
    (copy / "Accounting/validation-00000-of-00001.parquet").write_bytes(b"other")
    assert Accuracy().identity(spec(copy), point) != before


def test_copies_that_nothing_asks_for_or_that_are_empty_are_refused(mmmu, tmp_path):
    (tmp_path / "empty").mkdir()
    given = AccuracySpec(tasks=(TASK,), datasets={"MMMU/MMU": mmmu, "MMMU/MMMU": tmp_path / "empty"})
    told = [str(f) for f in Accuracy().faults(given, [{"task": TASK}], EngineSettings())]
    assert "accuracy.datasets.MMMU/MMU: is the data set of none of the tasks; did you mean 'MMMU/MMMU'?" in told
    assert any("holds no .parquet file; get it: python -m harness fetch dataset MMMU/MMMU" in line for line in told)


def test_a_subject_that_the_copy_lacks_is_named(mmmu):
    (told,) = faults(spec(mmmu, "mmmu_val_music"), names=("mmmu_val_music",))
    assert "has no configuration 'Music': there are Accounting, Art" in told


@pytest.mark.parametrize("layout", ["data/{}-00000-of-00001.parquet", "{}.parquet", "default/{}/0000.parquet", "listed"])
def test_layouts_of_the_hub(tmp_path, layout):
    from harness.workloads.tasks.local_data import Splits

    path = tmp_path / ("odd/name.parquet" if layout == "listed" else layout.format("test"))
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list([{"x": 1, "image": png("red")}]).to_parquet(path)
    if layout == "listed":
        front = "configs:\n- config_name: default\n  data_files:\n  - split: test\n    path: odd/*.parquet\n"
        (tmp_path / "README.md").write_text(f"---\n{front}---\n# Data\n")
    found = Splits(tmp_path, "default" if layout.startswith("default") else None)
    assert list(found) == ["test"]
    # A file that was not written by the datasets library says nothing of pictures; its columns do.
    assert found["test"][0]["image"].size == (64, 48)


def test_documents_too_long_too_small_or_with_image_tokens_are_listed_together(mmmu, tmp_path):
    folder = tmp_path / "copy"
    (folder / "Accounting").mkdir(parents=True)
    rows = [
        ROWS[0],
        mmmu_row(7, "word " * 3000 + "<image 1>", {1: png("red")}),
        mmmu_row(8, "Tiny <image 1>", {1: png("red", (16, 16))}),
        mmmu_row(9, "What is <|image_pad|> in <image 1>", {1: png("red")}),
    ]
    datasets.Dataset.from_list(rows).to_parquet(folder / "Accounting/validation.parquet")
    settings = EngineSettings(images_per_prompt=2, max_model_len=1024)
    told = faults(spec(folder), settings)
    assert len(told) == 3
    assert "document validation_Accounting_7: its prompt is 12126 tokens" in told[0] and "the model length is 1024" in told[0]
    assert "document validation_Accounting_8: an image is 16x16 pixels" in told[1]
    assert "document validation_Accounting_9: its text holds the image token <|image_pad|>" in told[2]
    assert all("score_zero" in line for line in told)
    zero = spec(folder, bad_documents="score_zero")
    warned = faults(zero, settings)
    assert [w.partition(": document ")[2][:24] for w in warned] == [f"validation_Accounting_{n}:" for n in (7, 8, 9)]
    first, bodies = ask(zero, lambda *_: ("B", "stop"), tmp_path)
    second, _ = ask(zero, lambda *_: ("A", "stop"), tmp_path)
    assert len(bodies) == 1
    assert [(s.score, s.finish_reason) for s in first.samples] == [(1.0, "stop")] + [(0.0, "not asked")] * 3
    assert [s.doc_id for s in first.samples] == [s.doc_id for s in second.samples]
    assert [(s.prompt_hash, s.image_hash) for s in first.samples] == [(s.prompt_hash, s.image_hash) for s in second.samples]
    assert (first.metrics["score"].value, first.metrics["set_aside"].value) == (0.25, 0.75)
    assert first.metrics["output_tokens"].value == 2


def test_a_task_of_which_nothing_can_be_asked_is_refused(mmmu):
    (told,) = faults(spec(mmmu, bad_documents="score_zero"), EngineSettings(images_per_prompt=0))
    assert "none of its documents can be asked" in told


def test_an_answer_longer_than_the_model_is_refused(mmmu):
    told = faults(spec(mmmu), EngineSettings(images_per_prompt=2, max_model_len=256))
    assert told == [
        f"{TASK}: an answer may take 512 tokens, and the model length is 256; "
        "raise engine.max_model_len or lower accuracy.max_tokens"
    ]


def test_a_prompt_is_counted_as_the_model_counts_it(mmmu):
    """The bound clears what it can; what it cannot is counted by the model's own tokenizer and processor."""
    from pathlib import Path

    from harness.workloads.lm_eval.prompt_length import Prompt, too_long

    parts = placed("word " * 30 + "<image>", [{"type": "image"}])
    prompt = Prompt([{"role": "user", "content": parts}], [(64, 48)])
    assert too_long([prompt], Path(DEMO), 4000) == {}
    ((index, tokens),) = too_long([prompt], Path(DEMO), 10).items()
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(DEMO)
    text = processor.apply_chat_template(prompt.messages, add_generation_prompt=True)
    real = processor(text=[text], images=[Image.new("RGB", (64, 48))])["input_ids"]
    assert (index, tokens) == (0, len(real[0]))


@pytest.fixture
def words(tmp_path):
    """A text task with few-shot examples, its data as a local copy."""
    own, copy = tmp_path / "own", tmp_path / "copy"
    own.mkdir()
    copy.mkdir()
    rows = [{"id": str(i), "q": f"Spell {i}.", "a": f"w{i}"} for i in range(12)]
    datasets.Dataset.from_list(rows).to_parquet(copy / "test.parquet")
    name = f"spelling_{tmp_path.name}".replace("-", "_")
    (own / "t.yaml").write_text(
        f"task: {name}\ndataset_path: some/words\ntest_split: test\noutput_type: generate_until\n"
        'doc_to_text: "{{q}}"\ndoc_to_target: "{{a}}"\nnum_fewshot: 2\nfewshot_config: {sampler: default}\n'
        "generation_kwargs: {until: [], max_gen_toks: 8}\nmetric_list: [{metric: exact_match}]\n"
    )
    return name, AccuracySpec(tasks=(name,), include_path=own, datasets={"some/words": copy}, concurrency=1, divergence=3)


def test_a_text_task_from_a_local_copy_shows_every_arm_the_same_examples(words, tmp_path):
    name, given = words
    assert faults(given, names=(name,)) == []
    one, bodies = ask(given, lambda *_: ("w1", "stop"), tmp_path, name)
    two, _ = ask(given, lambda *_: ("w2", "stop"), tmp_path, name)
    assert [s.prompt_hash for s in one.samples] == [s.prompt_hash for s in two.samples]
    assert one.metrics["score"].value == pytest.approx(1 / 12) == one.metrics["chance"].value
    assert one.metrics["chance"].source == "commonest answer"
    assert len(bodies[0]["messages"]) >= 1 and json.dumps(bodies[0]).count("Spell") == 3


def prompt_logprobs(body, shift: float = 0.0) -> dict:
    """What vLLM replies: a prompt of 40 tokens, then an answer of one token a word."""
    answer = body["messages"][-1]["content"].split()
    given = [
        {str(100 + i): {"logprob": -0.1 - shift, "rank": 1}, "7": {"logprob": -2.5, "rank": 2}} for i in range(len(answer))
    ]
    return {"prompt_logprobs": [None] + [{"1": {"logprob": 0.0, "rank": 1}}] * 39 + given}


def test_divergence_asks_for_the_baselines_own_answers(words, tmp_path):
    name, given = words
    base, _ = ask(given, lambda *_: ("a b", "stop"), tmp_path, name)
    server = Server(lambda _, body: prompt_logprobs(body))
    answered = {name: list(base.samples)}
    got = measured(Divergence(), engine_of(server, tmp_path), given, {"questions": 3}, reference=answered)
    rows = list(got.samples)
    assert len(rows) == 3 == len(server.bodies) and got.metrics["questions"].value == 3
    assert rows[0].tokens == [100, 101] == rows[0].best and rows[0].logprobs[0] == {100: -0.1, 7: -2.5}
    assert got.metrics["answer_logprob"].value == pytest.approx(-0.1)
    body = server.bodies[0]
    assert body["messages"][-1] == {"role": "assistant", "content": "a b"}
    assert (body["max_tokens"], body["continue_final_message"], body["add_generation_prompt"]) == (1, True, False)
    # Evenly spread over the documents, each as lm-eval asked it.
    assert [row.doc_id for row in rows] == ["0", "4", "8"]
    assert "Spell 4." in json.dumps(server.bodies[1]["messages"][-2]) or "Spell 4." in json.dumps(server.bodies)


def test_divergence_without_the_baselines_answers_fails_and_says_so(words, tmp_path):
    name, given = words
    with pytest.raises(CellFailed, match=f"the baseline has no answers to {name} yet"):
        measured(Divergence(), engine_of(Server(None), tmp_path), given, {"questions": 3})


def test_divergence_refuses_answers_to_other_questions(words, tmp_path):
    name, given = words
    base, _ = ask(given, lambda *_: ("a b", "stop"), tmp_path, name)
    other = [s.model_copy(update={"prompt_hash": "other"}) for s in base.samples if isinstance(s, Sample)]
    with pytest.raises(CellFailed, match="is not what the baseline was asked"):
        measured(Divergence(), engine_of(Server(None), tmp_path), given, {"questions": 3}, reference={name: other})


def test_unknown_names_stay_refused(mmmu):
    with pytest.raises(Refused, match="did you mean 'mmmu_val_accounting'"):
        tasks.find(["mmmu_val_acounting"], None, {"MMMU/MMMU": mmmu})
    assert load(TASK, spec(mmmu)).task is load(TASK, spec(mmmu)).task
