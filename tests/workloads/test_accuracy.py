"""The real lm-eval client against a loopback server that answers as told: what is sent, what is kept, what is refused."""

from __future__ import annotations

import pytest

from harness.engine.server import SAMPLING
from harness.engine.settings import EngineSettings
from harness.util.errors import CellFailed
from harness.workloads.accuracy import Accuracy, AccuracySpec
from harness.workloads.lm_eval import scores
from tests.helpers.chat_server import DATA, TASK, Server, doc, engine_of, measured


@pytest.fixture
def ask(tmp_path):
    """Makes a task of `docs`, asks a server that replies as told, returns (Measurement, bodies that were sent)."""
    count = 0

    def go(docs, reply, model="m", settings=None, **spec):
        nonlocal count
        count += 1
        folder = tmp_path / str(count)
        folder.mkdir()
        name = f"colours_{tmp_path.name}_{count}".replace("-", "_")
        (folder / "t.yaml").write_text(TASK.format(name=name))
        (folder / "data.py").write_text(DATA.format(docs=docs))
        given = AccuracySpec(tasks=(name,), include_path=folder, concurrency=spec.pop("concurrency", 2), **spec)
        if settings is not None:
            return [str(f) for f in Accuracy().preflight(given, [{"task": name}], settings, model)]
        server = Server(reply)
        engine = engine_of(server, tmp_path, model)
        return measured(Accuracy(), engine, given, {"task": name}), server.bodies

    return go


def test_one_text_with_two_pictures_is_two_questions(ask):
    docs = [doc("1", ["red"]), doc("2", ["blue"], answer="blue")]
    measured, bodies = ask(docs, lambda colour, _: (f" {colour}\n", "stop"))
    assert len(bodies) == 2
    assert measured.metrics["score"].value == 1.0
    one, two = measured.samples
    assert one.prompt_hash == two.prompt_hash and one.image_hash != two.image_hash
    assert (one.doc_id, one.answer, one.response, one.completion_tokens) == ("1", "red", " red\n", 2)


def test_two_models_are_both_asked_and_named(ask):
    docs = [doc("1"), doc("2", ["blue"])]
    good, first = ask(docs, lambda *_: ("red", "stop"), model="one")
    bad, second = ask(docs, lambda *_: ("blue", "stop"), model="two")
    assert (good.metrics["score"].value, bad.metrics["score"].value) == (1.0, 0.0)
    assert {b["model"] for b in first} == {"one"} and {b["model"] for b in second} == {"two"}


def test_sampling_is_said_in_full_whatever_the_checkpoint_would_prefer(ask):
    _, bodies = ask([doc("1")], lambda *_: ("red", "stop"), max_tokens=5)
    assert SAMPLING.items() <= bodies[0].items()
    assert bodies[0]["max_tokens"] == 5
    assert [part["type"] for part in bodies[0]["messages"][0]["content"]] == ["image_url", "text"]


def test_shares_that_stand_beside_the_score(ask):
    docs = [doc(str(i), answer="red") for i in range(4)]
    texts = iter([("red", "stop"), ("", "stop"), ("red red", "length"), (None, "stop")])
    measured, _ = ask(docs, lambda *_: next(texts), concurrency=1)
    values = {name: metric.value for name, metric in measured.metrics.items()}
    assert values["score"] == 0.25 and values["unparsed"] == 0.5 and values["cut_by_length"] == 0.25
    assert measured.metrics["score"].stderr == pytest.approx(0.25)
    assert measured.metrics["score"].n == 4


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_server_that_refuses_fails_the_cell(ask, concurrency):
    with pytest.raises(CellFailed, match="colours_"):
        ask([doc("1"), doc("2")], lambda *_: 400, concurrency=concurrency)


def test_only_the_first_so_many_documents(ask):
    _, bodies = ask([doc(str(i)) for i in range(5)], lambda *_: ("red", "stop"), limit=2)
    assert len(bodies) == 2


def test_documents_that_cannot_be_asked_are_listed_by_id(ask, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    docs = [
        doc("good"),
        doc("small", size=(16, 16)),
        doc("many", ["red", "red", "blue"]),
        doc("token", question="What is <|image_pad|> here?"),
    ]
    told = ask(docs, None, model=str(tmp_path), settings=EngineSettings(images_per_prompt=1))
    assert len(told) == 3
    assert "document small: an image is 16x16 pixels" in told[0]
    assert "document many: shows 3 images, engine.images_per_prompt is 1" in told[1]
    assert "document token: its text holds the image token <|image_pad|>" in told[2]


def test_a_task_without_documents_has_no_score():
    assert scores.metrics([], scores.chance_level([], None, []))["score"].reason == "the task has no documents"


def test_documents_with_one_id_are_told_before_an_engine_starts(ask):
    told = ask([doc("1"), doc("2"), doc("1")], None, settings=EngineSettings())
    assert len(told) == 1 and "another document has the same id" in told[0]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("output_type: generate_until", "output_type: multiple_choice\ndoc_to_choice: [a, b]", "is a multiple_choice task"),
        ("{metric: exact_match}", "{metric: exact_match, aggregation: mean, higher_is_better: false}", "is better when lower"),
        ("{{{{question}}}}", "{{{{ question | nofilter }}}}", "cannot be loaded"),
    ],
)
def test_tasks_that_cannot_be_asked_or_scored(ask, monkeypatch, before, after, told):
    monkeypatch.setattr(f"{__name__}.TASK", TASK.replace(before, after))
    assert told in ask([doc("1")], None, settings=EngineSettings())[0]


def test_of_several_filters_the_first_counts(ask, monkeypatch):
    second = "  - name: loose\n    filter: [{{function: lowercase}}, {{function: take_first}}]\nmetric_list"
    monkeypatch.setattr(f"{__name__}.TASK", TASK.replace("metric_list", second))
    measured, _ = ask([doc("1", answer="Red"), doc("2", answer="Red")], lambda *_: ("Red", "stop"))
    assert measured.metrics["score"].n == 2 and measured.metrics["score"].value == 1.0


def test_scores_of_a_declared_range_are_shares_of_it(ask, monkeypatch):
    monkeypatch.setattr(f"{__name__}.TASK", TASK + "metadata: {{score_range: [-1, 1]}}\n")
    measured, _ = ask([doc("1"), doc("2", answer="blue")], lambda *_: ("red", "stop"))
    # exact_match gives 1 and 0: shares 1 and 0.5 of the range.
    assert measured.metrics["score"].value == 0.75 and [s.score for s in measured.samples] == [1.0, 0.5]


def test_a_range_that_is_none_is_told_before_an_engine_starts(ask, monkeypatch):
    monkeypatch.setattr(f"{__name__}.TASK", TASK + "metadata: {{score_range: [1, 0]}}\n")
    assert "metadata.score_range is [1, 0]" in ask([doc("1")], None, settings=EngineSettings())[0]


def test_ids_that_repeat_pair_by_position_where_the_suite_asks_for_it(ask):
    measured, _ = ask([doc("1"), doc("1", answer="blue")], lambda *_: ("red", "stop"), pair_by="position")
    assert [s.doc_id for s in measured.samples] == ["0", "1"]


def test_what_pairs_is_part_of_the_key_only_where_it_differs_from_earlier_versions():
    point = {"task": "demo_vl_text"}
    by_id, by_position = (
        Accuracy().identity(AccuracySpec(tasks=("demo_vl_text",), pair_by=how), point) for how in ("id", "position")
    )
    assert "pair_by" not in by_id and by_position == by_id | {"pair_by": "position"}


GENERATION = "generation_kwargs: {{until: [], max_gen_toks: 8}}"


def asking(monkeypatch, generation: str) -> None:
    monkeypatch.setattr(f"{__name__}.TASK", TASK.replace(GENERATION, f"generation_kwargs: {{{{{generation}}}}}"))


@pytest.mark.parametrize(
    ("generation", "limit", "stop"),
    [
        ("until: [], max_gen_toks: 8", 8, []),
        ("until: [], max_new_tokens: 2, num_beams: 1, top_p: 1.0, temperature: 0", 2, []),
        ("until: [], max_tokens: 3, do_sample: false, temperature: 0.7", 3, []),
        ("until: [], max_completion_tokens: 4", 4, []),
        ("until: [a, b, c, d, e, f], max_gen_toks: 8", 8, list("abcdef")),
        ("until: stop, max_gen_toks: 8", 8, ["stop"]),
    ],
)
def test_what_a_task_asks_of_the_generation_is_what_is_sent(ask, monkeypatch, generation, limit, stop):
    asking(monkeypatch, generation)
    assert ask([doc("1")], None, settings=EngineSettings()) == []
    _, (body,) = ask([doc("1")], lambda *_: ("red", "stop"))
    limits = {key: value for key, value in body.items() if "max" in key}
    assert set(limits.values()) == {limit} and len(limits) == 1
    assert body["stop"] == stop and SAMPLING.items() <= body.items()
    assert not {"num_beams", "do_sample", "until", "max_new_tokens"} & body.keys()


@pytest.mark.parametrize(
    ("generation", "told"),
    [
        ("temperature: 0.7, do_sample: true", "ask for sampling (temperature 0.7), and every arm is asked greedily"),
        ("num_beams: 4", "generation_kwargs.num_beams is 4, which no request carries"),
        ("repetition_penalty: 1.1", "generation_kwargs.repetition_penalty is 1.1, which no request carries"),
        ("max_lenght: 8", "generation_kwargs.max_lenght is not known, so no request would carry it"),
        ("max_gen_toks: many", "generation_kwargs.max_gen_toks is 'many'; a number of tokens"),
        ("until: 7", "generation_kwargs.until is 7"),
    ],
)
def test_what_no_request_carries_is_refused_by_name(ask, monkeypatch, generation, told):
    asking(monkeypatch, generation)
    assert told in ask([doc("1")], None, settings=EngineSettings())[0]


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("{{metric: exact_match, aggregation: median, higher_is_better: true}}", "exact_match, is aggregated by median"),
        ("{{metric: f1}}", "f1, is aggregated by f1_score"),
        ("{{metric: !function data.percent, aggregation: mean, higher_is_better: true}}",
         "its scorer was tried: metric percent is 100"),
    ],
)  # fmt: skip
def test_scores_that_are_none_are_told_before_anything_is_asked(ask, monkeypatch, metric, told):
    monkeypatch.setattr(f"{__name__}.TASK", TASK.replace("{{metric: exact_match}}", metric))
    scorer = "def percent(predictions, references):\n    return 100.0 * (predictions == references)\n"
    monkeypatch.setattr(f"{__name__}.DATA", DATA + scorer)
    assert told in ask([doc("1")], None, settings=EngineSettings())[0]
