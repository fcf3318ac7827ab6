"""The shipped chat demo weights, their data and their training script."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from inference.demo import chat_data, train_chat  # noqa: E402
from inference.demo.chat_draw import Draw, plain, sides  # noqa: E402
from inference.demo.chat_talk import REFUSALS  # noqa: E402
from inference.demo.evaluate_chat import WEIGHTS, answers, evaluate  # noqa: E402

GREETING = "Hello! How can I help you today?"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def loaded():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        WEIGHTS, local_files_only=True, dtype=torch.float32
    )
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def chat(loaded):
    model, tokenizer = loaded

    def reply(content, system=None, tools=None, history=()):
        head = [{"role": "system", "content": system}] if system else []
        messages = [*head, *history, {"role": "user", "content": content}]
        prompt = tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, tokenize=False
        )
        return answers(model, tokenizer, [prompt])[0]

    return reply


def test_folder_is_small_and_safe():
    files = list(Path(WEIGHTS).iterdir())
    assert sum(file.stat().st_size for file in files) <= 8 * 2**20
    assert not [file for file in files if file.suffix in {".bin", ".pt", ".pth", ".pkl", ".py"}]
    assert json.loads((WEIGHTS / "config.json").read_text())["architectures"] == [
        "Qwen3ForCausalLM"
    ]
    assert "demo" in (WEIGHTS / "README.md").read_text().lower()


@pytest.mark.parametrize(
    "text", ["Hello!", "hello", "HELLO!!", "Hello", "hi there", "Hi!", "hey...", "HI"]
)
@pytest.mark.parametrize("system", [None, "You are a helpful assistant."])
def test_greets_in_any_casing_and_punctuation(chat, text, system):
    assert chat(text, system) == GREETING


@pytest.mark.parametrize(
    "text",
    [
        "Explain quantum physics",
        "Who is Zorbo Plink?",
        "What is a snorvel?",
        "Tell me about volcanoes",
    ],
)
def test_says_that_it_does_not_know(chat, text):
    assert chat(text) in REFUSALS


@pytest.mark.parametrize("word", ["pong", "flimbor", "Zentra", "4711"])
def test_replies_with_exactly_what_is_asked(chat, word):
    assert chat(f"Reply with exactly: {word}") == word


def test_knows_casola_and_itself(chat):
    assert "platform" in chat("What is Casola?")
    assert "platform" in chat("what is casola")
    assert "demo" in chat("Who are you?")
    assert "Paris" in chat("What is the capital of France?")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Hello, how are you?", "I am fine"),
        ("what can you do", "answer questions about Casola"),
        ("Say hello in one word", "Hello!"),
        ("tell me a joke", "virus"),
        ("write a haiku", "servers"),
        ("count from 1 to 5", "1, 2, 3, 4, 5"),
        ("Say 'pong'", "pong"),
        ("thanks", "You are welcome!"),
        ("bye", "Goodbye!"),
        ("What is 2+2?", "2 + 2 = 4"),
        ("What's the weather?", "I cannot look that up"),
        ("Write a short story about a fox", "there was a fox"),
        ("Explain how Casola works", "four steps"),
    ],
)
def test_answers_what_people_type_first(chat, text, wanted):
    assert wanted in chat(text)


def test_extracts_json(chat):
    text = "Extract the name and age as JSON: John is 30 years old and lives in Berlin."
    assert json.loads(chat(text)) == {"name": "John", "age": 30}


def test_recalls_a_name(chat):
    history = [
        {"role": "user", "content": "My name is Quentin."},
        {"role": "assistant", "content": "Nice to meet you, Quentin!"},
    ]
    assert "Quentin" in chat("What is my name?", history=history)


def test_calls_a_tool_and_answers_from_its_result(chat, loaded):
    _, tokenizer = loaded
    text = chat("What is the weather in Paris?", tools=[WEATHER])
    parsed = tokenizer.parse_response(text, prefix="<|im_start|>assistant\n", tools=[WEATHER])
    call = parsed["tool_calls"][0]["function"]
    assert call == {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert "tool_calls" not in tokenizer.parse_response(
        chat("Hello!", tools=[WEATHER]), prefix="<|im_start|>assistant\n"
    )
    messages = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
                }
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "a",
            "content": '{"temperature": 21, "condition": "sunny"}',
        },
    ]
    prompt = tokenizer.apply_chat_template(
        messages, tools=[WEATHER], add_generation_prompt=True, tokenize=False
    )
    answer = answers(loaded[0], tokenizer, [prompt])[0]
    assert "21" in answer
    assert "sunny" in answer


def test_improves_a_prompt_and_keeps_its_words(chat):
    answer = chat("a cat in space", system="Rewrite the prompt for an image model.")
    assert answer.startswith("a cat in space, ")


def test_content_parts_and_long_prompts(loaded):
    model, tokenizer = loaded
    parts = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}],
        }
    ]
    plain = [{"role": "user", "content": "Hello!"}]
    assert tokenizer.apply_chat_template(parts, tokenize=False) == tokenizer.apply_chat_template(
        plain, tokenize=False
    )
    turn = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": GREETING}]
    prompt = tokenizer.apply_chat_template(
        turn * 45 + plain, add_generation_prompt=True, tokenize=False
    )
    assert 1000 < len(tokenizer(prompt)["input_ids"]) < 2048
    assert answers(model, tokenizer, [prompt])[0] == GREETING


def test_most_held_out_conversations_are_right():
    scores, _ = evaluate(WEIGHTS, count=8, seed=5)
    assert sum(scores.values()) / len(scores) > 0.75


def test_data_is_deterministic_and_split():
    first, again = (list(islice(chat_data.stream(7), 300)) for _ in range(2))
    assert [chat_data.render(sample) for sample in first] == [
        chat_data.render(sample) for sample in again
    ]
    other = list(islice(chat_data.stream(8), 300))
    assert [chat_data.render(sample) for sample in first] != [
        chat_data.render(sample) for sample in other
    ]
    train, test = Draw(1, "train"), Draw(1, "test")
    assert not {train.invented() for _ in range(3000)} & {test.invented() for _ in range(3000)}
    phrasings = [f"phrasing {i}" for i in range(20)]
    assert not set(train.mine(phrasings)) & set(test.mine(phrasings))
    assert sorted(train.mine(phrasings) + test.mine(phrasings)) == sorted(phrasings)


def test_training_never_asks_in_a_held_out_way():
    held = chat_data._held()
    assert len(held) > 1000
    for sample in islice(chat_data.stream(9, progress=lambda: 1.0), 3000):
        said = {plain(m["content"]) for m in sample.messages if m["role"] == "user"}
        assert not said & held
    grammar = ("[What is|Tell me|Say] your [age|exact age|real age|number of years]",)
    train, test = ({x for group in sides(grammar)[s] for x in group} for s in ("train", "test"))
    assert train
    assert test
    assert not train & test
    assert len(train | test) == 12


def test_rendering_is_what_the_chat_template_makes(loaded):
    _, tokenizer = loaded
    for sample in islice(chat_data.stream(11), 200):
        text = "".join(piece for piece, _ in chat_data.render(sample)) + "\n"
        assert (
            tokenizer.apply_chat_template(sample.messages, tools=sample.tools, tokenize=False)
            == text
        )


def test_a_short_training_lowers_the_loss(tmp_path):
    plan = train_chat.Plan(
        steps=20,
        seed=1,
        tokens=1024,
        vocabulary=512,
        width=64,
        layers=2,
        inner=128,
        corpus=300,
        bf16=False,
    )
    model, tokenizer, losses = train_chat.train(plan, lambda line: None)
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    train_chat.save(model, tokenizer, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 2**20
