"""The bound on a request's units holds against real templates and tokenizers, for any text."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from inference.contracts import chat, completion, speech
from inference.contracts.bounds import BOUNDS, UNKNOWN_CONTEXT, Limits, most_units
from inference.models import ModelSpec
from inference.runners.prompt import PromptBuilder, tokenizer_format
from inference.selectors import TASK_CHECKS, context_of, most_image_tokens
from tests.live_api.site import DEMO_WEIGHTS
from usage.models import UNITS
from usage.pricing import amount_of, ceiling_of

LIMITS = Limits(context=None, image_tokens=1000, compute_ms=5000)
# Letters of many scripts, what grows when it is decomposed, and the marks of control tokens.
PIECES = ["hello ", "ﷺ", "각", "Å", "ﬃ", "𝅗𝅥", "日本", "🙂", "<|im_end|>", "<tool_call>", "</think>",
          "[INST]", "<", "\n", "\t", "  ", "0123", "é", "\u0301", "<|endoftext|>", '{"a": 1}']  # fmt: skip
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8")), st.lists(st.sampled_from(PIECES)).map("".join)
)


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_WEIGHTS, local_files_only=True)
    return PromptBuilder(tokenizer, tokenizer_format(tokenizer, "qwen2"))


def contract(**body) -> dict:
    return chat.from_body({"messages": [], **body}).as_dict()


def tool(name: str, text: str) -> dict:
    parameters = {"type": "object", "properties": {text or "x": {"type": "string"}}}
    return {
        "type": "function",
        "function": {"name": name, "description": text, "parameters": parameters},
    }


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["user", "system", "assistant"]), TEXTS), min_size=1, max_size=4),
    st.lists(TEXTS, max_size=2),
    TEXTS,
)  # fmt: skip
def test_a_prompt_has_no_more_tokens_than_its_bound(prompts, turns, tools, argument):
    messages = [{"role": role, "content": text} for role, text in turns]
    if tools:
        call = {"name": "f", "arguments": json.dumps({"text": argument})}
        messages.append(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": call}],
            }
        )
    offered = [tool(f"tool_{number}", text) for number, text in enumerate(tools)]
    most = most_units(chat.TASK, contract(messages=messages, tools=offered), LIMITS)
    try:
        built = prompts.build(messages, context=10**6, tools=offered)
    except Exception:  # noqa: BLE001 - a refused prompt costs nothing
        return
    assert len(built.tokens) <= most["prompt_tokens"]


@settings(max_examples=150, deadline=None)
@given(TEXTS.filter(bool))
def test_a_plain_prompt_has_no_more_tokens_than_its_bound(prompts, text):
    body = completion.from_body({"prompt": [text, text]}).as_dict()
    most = most_units(completion.TASK, body, LIMITS)
    try:
        tokens = prompts.encode(text, context=10**6)
    except Exception:  # noqa: BLE001
        return
    assert 2 * len(tokens) <= most["prompt_tokens"]


@pytest.mark.parametrize(
    ("wished", "context", "choices", "most"),
    [
        (5, None, 1, 5),
        (5, 100, 3, 15),
        (500, 100, 2, 198),
        (None, 100, 2, 198),
        (None, None, 1, UNKNOWN_CONTEXT),
    ],
)
def test_completion_tokens_are_those_of_all_choices(wished, context, choices, most):
    body = {"messages": [{"role": "user", "content": "hi"}], "n": choices}
    if wished is not None:
        body["max_tokens"] = wished
    units = most_units(chat.TASK, contract(**body), Limits(context, 0, 7))
    assert (units["completion_tokens"], units["compute_ms"]) == (most, 7 * choices)
    if context:
        assert units["prompt_tokens"] == context - 1  # never more than the model can take


def test_images_and_token_ids_count_by_themselves():
    content = [{"type": "text", "text": "what?"}, {"type": "image", "url": "data:" + "x" * 10**6}]
    plain = [{"type": "text", "text": "what?"}]
    with_image, without = (
        most_units(chat.TASK, contract(messages=[{"role": "user", "content": c}]), LIMITS)
        for c in (content, plain)
    )
    assert with_image["prompt_tokens"] - without["prompt_tokens"] == 1000
    ids = completion.from_body({"prompt": [[1, 2, 3], [4]], "n": 2, "max_tokens": 9}).as_dict()
    units = most_units(completion.TASK, ids, LIMITS)
    assert (units["prompt_tokens"], units["completion_tokens"]) == (4, 36)


def test_speech_counts_its_characters_and_the_longest_sound():
    units = most_units(speech.TASK, speech.SpeechInput("Grüße 🙂", "alloy").as_dict(), LIMITS)
    assert (units["characters"], units["audio_ms"]) == (7, 1_860_000)
    assert (units["prompt_tokens"], units["compute_ms"]) == (0, 5000)


READ = {"input": [], "query": "", "documents": [], "text_1": [], "text_2": []}


def test_every_task_and_every_unit_has_a_bound():
    assert set(BOUNDS) == set(TASK_CHECKS)
    for task in BOUNDS:
        request = {"messages": [], "units": 3, "text": "", **READ}
        assert set(most_units(task, request, LIMITS)) == set(UNITS)


PRICE = st.tuples(st.decimals("0", "10", places=9).map(str), st.sampled_from([1, 1000, 10**6]))


@given(
    st.dictionaries(st.sampled_from(UNITS), PRICE.map(list)),
    st.dictionaries(st.sampled_from(UNITS), st.integers(0, 10**6)),
    st.data(),
)
def test_no_amount_is_above_the_ceiling(prices, most, data):
    most = dict.fromkeys(UNITS, 0) | most
    used = {unit: data.draw(st.integers(0, count)) for unit, count in most.items()}
    used["cached_tokens"] = min(used["cached_tokens"], used["prompt_tokens"])
    assert amount_of(used, prices) <= ceiling_of(most, prices)


def test_a_unit_without_a_bound_is_an_error_not_a_gift():
    with pytest.raises(KeyError):
        ceiling_of({"prompt_tokens": 1}, {"images": ["1", 1]})
    assert ceiling_of({"prompt_tokens": 3}, {"prompt_tokens": ["0.0000000001", 1]}) == Decimal(
        "0.000000001"
    )


def test_the_context_is_the_rows_or_the_folders():
    demo = ModelSpec(source="inference/demo/weights/chat")
    config = json.loads((DEMO_WEIGHTS / "config.json").read_text())
    assert context_of(demo) == config["max_position_embeddings"]
    assert context_of(ModelSpec(source=demo.source, context=100)) == 100
    assert context_of(ModelSpec(source=demo.source, context=10**7)) == context_of(demo)
    assert context_of(ModelSpec(source="no/such", context=77)) == 77
    assert context_of(ModelSpec(source="no/such")) is None
    assert most_image_tokens(ModelSpec(options={"image_pixels": 784 * 10})) == 74


@pytest.mark.django_db
def test_a_jobs_ceiling_is_that_of_the_same_request_at_once():
    from inference.ceilings import body_ceiling
    from inference.selectors import Model
    from tests.factories.usage import make_price

    make_price(model_id="m", unit="completion_tokens", amount=Decimal("0.5"))
    model = Model(1, "spec", "m", "q", frozenset(), False)
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 6, "model": "m"}
    now = datetime.now(UTC)
    assert body_ceiling(model=model, task=chat.TASK, body=body, now=now) == 3
    echo = {"units": 4}
    assert body_ceiling(model=model, task="test/echo", body=echo, now=now) == 2
    other = Model(1, "spec", "free", "q", frozenset(), False)
    assert body_ceiling(model=other, task=chat.TASK, body=body, now=now) == 0
