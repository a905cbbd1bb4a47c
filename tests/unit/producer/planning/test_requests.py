"""Rendering at planning: each sample gets the digest of its request or a fault, and a wrong template stops the command."""

from typing import Any

import pytest

from common.errors import ConfigError
from common.prompts.messages import digest_request, render_messages
from common.records import Fault, Media, Message, Sample
from common.spec.prompts import PromptSpec
from producer.planning.requests import render_samples
from tests.support.planning import make_sample, make_samples, make_spec


def render(samples: list[Sample], *datasets: str, **prompt: Any) -> list[Sample]:
    spec = make_spec(*datasets).model_copy(update={"prompt": PromptSpec.model_validate(prompt)})
    return list(render_samples(samples, spec))


def test_sample_gets_the_digest_of_its_request() -> None:
    samples = [make_sample(number, request_digest=None) for number in range(3)]
    rendered = render(samples, template="{{ question }} Brief.")
    assert [sample.model_copy(update={"request_digest": None}) for sample in rendered] == samples
    prompt = PromptSpec(template="{{ question }} Brief.")
    assert [sample.request_digest for sample in rendered] == [digest_request(render_messages(sample, prompt)) for sample in samples]


def test_fault_of_a_marker_names_row_and_marker() -> None:
    wrong = make_sample(1, question="See <image 2>.", media=(Media(uri="/a.png", digest="a"),), request_digest=None)
    first, second = render([make_sample(0), wrong])
    assert first.fault is None
    assert second.request_digest is None
    assert second.fault == Fault(
        code="bad_field",
        message="row 1: <image 2> names a missing image, but the row has 1 image; correct the marker or add the image",
    )


def test_sample_with_a_fault_stays_unchanged() -> None:
    sample = make_sample(0, question="", fault=Fault(code="bad_row", message="x"))
    assert render([sample], template="{{ nothing }}") == [sample]


def test_name_that_some_rows_lack_is_their_fault() -> None:
    samples = [make_sample(number, metadata={"topic": "t"} if number % 2 else {}) for number in range(4)]
    rendered = render(samples, template="{{ topic }}: {{ question }}")
    assert [sample.fault is None for sample in rendered] == [False, True, False, True]
    message = str(rendered[0].fault and rendered[0].fault.message)
    assert message.startswith("row 0: prompt.template: 'topic' is undefined; the row has: dataset, hint, ")


@pytest.mark.parametrize("field", ["template", "system", "suffix"])
def test_name_that_no_row_has_is_a_config_error(field: str) -> None:
    samples = [make_sample(number, metadata={"topic": "t"}) for number in range(3)]
    with pytest.raises(
        ConfigError, match=rf"^dataset 'rows': .* prompt\.{field}: 'topik' is undefined; did you mean 'topic'\?"
    ) as caught:
        render(samples, **{field: "{{ topik }} {{ question }}"})
    assert "did you mean 'topic'?; the row has: dataset, hint, index, kind, letters, metadata, options, question, topic" in str(
        caught.value
    )


def test_name_that_one_dataset_lacks_is_a_config_error() -> None:
    samples = [*(make_sample(number, metadata={"topic": "t"}) for number in range(3)), *make_samples(3, dataset="other")]
    with pytest.raises(ConfigError, match="dataset 'other': no row can be rendered"):
        render(samples, "rows", "other", template="{{ topic }} {{ question }}")


WRITTEN = (
    Message(role="system", content=("Own.",)),
    Message(role="user", content=("One?",)),
    Message(role="assistant", content=(" written ",)),
    Message(role="user", content=("Two?",)),
    Message(role="assistant", content=()),
    Message(role="user", content=("Three?",)),
)


def test_asked_turns_keep_the_written_answers() -> None:
    unanswered = tuple(message for message in WRITTEN if message.role != "assistant")
    samples = [make_sample(0, messages=WRITTEN), make_sample(1, messages=unanswered), make_sample(2)]
    assert [sample.turn_targets for sample in render(samples, multi_turn="ask")] == [("written", None), (), ()]
    assert {sample.turn_targets for sample in render(samples[:1])} == {()}


def test_written_answers_do_not_count_in_an_asked_request() -> None:
    other = tuple(message.model_copy(update={"content": ("x",)}) if message.role == "assistant" else message for message in WRITTEN)
    samples = [make_sample(0, messages=WRITTEN), make_sample(1, messages=other)]
    assert len({sample.request_digest for sample in render(samples, multi_turn="ask")}) == 1
    assert len({sample.request_digest for sample in render(samples)}) == 2


def test_empty_asked_turn_is_a_fault_that_names_it() -> None:
    turns = [{"role": "user", "text": "{{ hint }} "}, {"role": "user", "text": "{{ question }}"}]
    samples = [make_sample(0), make_sample(1, hint="Look.")]
    first, second = render(samples, turns=turns, multi_turn="ask")
    message = "row 0: the prompt gives an empty message as turn 1 for this row; expected a text or media"
    assert first.fault == Fault(code="bad_field", message=message)
    assert second.fault is None


@pytest.mark.parametrize("prompt", [{"template": "{{ hint }} "}, {"turns": [{"role": "user", "text": "{{ hint }} "}]}])
def test_empty_message_is_a_fault(prompt: dict[str, Any]) -> None:
    red = Media(uri="/a.png", digest="a")
    samples = [make_sample(0), make_sample(1, hint="Look."), make_sample(2, media=(red,))]
    first, *others = render(samples, **prompt)
    message = "row 0: the prompt gives an empty message for this row; expected a text or media"
    assert first.fault == Fault(code="bad_field", message=message)
    assert [sample.fault for sample in others] == [None, None]
    with pytest.raises(ConfigError, match=r"no row can be rendered .*the prompt gives an empty message"):
        render(samples[:1], **prompt)
    assert render(samples[:1], suffix="Answer.", **prompt)[0].fault is None
