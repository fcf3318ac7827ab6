"""Copying, passages, summaries, extraction and rewriting for the chat demo data."""

# ruff: noqa: SIM905 (word lists read better as text)
from __future__ import annotations

import json
import re
from typing import Any

from inference.demo import chat_words as words
from inference.demo.chat_draw import Draw, Message, Sample
from inference.demo.chat_records import LEADS, SCHEMAS, Attribute, Schema

NOT_SAID = "The text does not say."
SLOTS = re.compile(r"(\{[a-zA-Z]+\})")
BEFORE = ["please ", "Please ", "Hi, ", "Hey, ", "hello, ", "hi ", "hey ", "Can you tell me: ", "Quick question: ", "quick question: ", "so, ", "One thing: ", "Now, ", "And ", "So, ", "Ok, ", "Hmm, ", "Hello! ", "Hi! ", "I'd like to know: ", "Well, "]  # fmt: skip
AFTER = [
    " please",
    ", please",
    " Thanks!",
    " thanks",
    ", thank you",
    " Thank you.",
    " pls",
    "?",
    "!",
    " :)",
    "...",
]


def user(text: str) -> Message:
    """A user message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """An assistant message."""
    return {"role": "assistant", "content": text}


def _typo(d: Draw, text: str) -> str:
    spots = [m.start() for m in re.finditer(r"(?<=[a-z])[a-z](?=[a-z]{2})", text)]
    if not spots:
        return text
    at = d.of(spots)
    return text[:at] + (
        text[at + 1 :] if d.chance(0.5) else text[at + 1] + text[at] + text[at + 2 :]
    )


def vary(d: Draw, text: str, affixes: bool = True) -> str:
    """Another casing, punctuation or politeness of a phrasing; its {slots} stay as they are."""
    if affixes and d.chance(0.25):
        text = text.rstrip(".!?") if d.chance(0.6) else text
        if d.chance(0.5):
            before = d.of(BEFORE)
            text = before + (text if d.chance(0.4) else text[:1].lower() + text[1:])
        else:
            text = text + d.of(AFTER)
    elif affixes and d.chance(0.35):
        text = text.rstrip("?.!") + d.of(["", "", ".", "!", "?", "??", "!!", " ?"])
    roll = d.rng.random()
    parts = SLOTS.split(text)
    for i, part in enumerate(parts):
        if not SLOTS.fullmatch(part):
            if roll < 0.3:
                parts[i] = part.lower()
            elif roll < 0.34:
                parts[i] = part.upper()
            elif roll < 0.37:
                parts[i] = part.title()
            elif roll < 0.44:
                parts[i] = _typo(d, part)
            elif roll < 0.52:
                parts[i] = part.replace("'", "").replace("What is", "Whats")
    return "".join(parts)


def ask(d: Draw, patterns: list[str], *, affixes: bool = False, **values: Any) -> str:
    """A varied phrasing of this side with its payload put in unchanged."""
    text = vary(d, d.phrase(patterns), affixes)
    for key, value in values.items():
        text = text.replace("{" + key + "}", str(value))
    return text


ECHO = [
    "[Reply|Answer|Respond|Please reply|Please answer|You must reply] [with|only with|with exactly|exactly with|with only|with this text:|with exactly this:|with the text] [{x}|: {x}]",
    "[Reply|Answer|Respond|Please reply|Please respond] [with|only with|with exactly|with exactly the text|exactly|with this]: {x}",
    "[Say|Write|Print|Output|Repeat|Type|Copy|Echo|Return|Please say|Please repeat|Can you repeat|Now write] [exactly|this|this text|exactly this|only|back|the following|the text]: {x}",
    "[Say|Write|Print|Output|Repeat|Type|Echo|Just say|Please repeat|Please write|Only write] {x}",
    "[Say|Write|Print|Output|Repeat|Type|Echo|Reply|Answer]: {x}",
    "[Say|Write|Print|Reply with|Answer with|Repeat|Respond with|Type|Output] ['{x}'|\"{x}\"]",
    "[Repeat|Copy|Say|Write|Reply with] the following [text|words|line|message] [exactly|]:[\n|\n\n]{x}",
    "Repeat after me: {x}", "[Output|Print|Write|Say|Reply] {x} and nothing [else|more]", "Your [answer|reply|output] must be [exactly|only]: {x}",
    "I want you to [say|write|repeat|answer]: {x}", "[Quote|Say|Send|Give] [this|back|it back]: {x}", "Answer: {x}. Say only that",
]  # fmt: skip
ECHO_WORD = [
    "[Reply|Answer|Respond|Please reply|Please answer] with [the word|the single word|only the word|exactly the word|just|one word:|exactly one word:|just the word] {x}",
    "[Say|Write|Print|Repeat|Type|Output|Please say|Please write|Can you say|Just say|Only say|Now say] the [word|single word|one word] {x}",
    "[Say|Please say|Can you say|Could you say|Only say|Just say|Now say] {x} [now|for me|please|]", "Say {x}!", "Say '{x}'", "[Answer|Reply|Respond] {x}",
    "[Reply|Answer|Respond] with exactly: {x}",
]  # fmt: skip
ECHO_SYSTEM = ["Always reply with {x}.", "Always answer with: {x}", "Reply to everything with {x}.", "Whatever the user says, answer {x}.", "You only ever say {x}.", "Answer every message with {x}."]  # fmt: skip
TWICE = ["Say {x} twice", "Repeat {x} two times", "Write {x} two times", "Say the word {x} twice", "Print {x} twice", "Repeat the word {x} twice"]  # fmt: skip
PAIR = ['Return a JSON object with the key "{k}" and the value "{v}"', 'Reply with JSON: "{k}" is "{v}"', "Make a JSON object where {k} is {v}", "Give me JSON with {k} set to {v}", "As JSON: {k} is {v}", "Write JSON with the key {k} and the value {v}", "Return JSON where {k} has the value {v}"]  # fmt: skip


def one_word(d: Draw) -> str:
    """A word or number to repeat, in any casing."""
    roll = d.rng.random()
    if roll < 0.12:
        return str(d.number(0, 10 ** d.number(1, 6)))
    text = words.name(d) if roll < 0.3 else words.word(d)
    return d.of([text, text, text, text.lower(), text.upper(), text.capitalize()])


def payload(d: Draw, most: int) -> str:
    """A text to repeat."""
    if d.chance(0.08):
        return d.of([f"{one_word(d)}-{d.number(1, 999)}", words.email(d), f"{one_word(d)}_{one_word(d)}", f"{words.word(d)}.{words.word(d)}"])  # fmt: skip
    text = " ".join(one_word(d) for _ in range(d.number(1, most)))
    if d.chance(0.15):
        text = words.subject(d)
    if d.chance(0.2):
        text = text[0].upper() + text[1:] + d.of(["!", ".", "?", "", "!"])
    return text


def echo(d: Draw, most: int = 7) -> Sample:
    """Repeat what is asked for."""
    roll = d.rng.random()
    if roll < 0.4:
        x = one_word(d)
        ask_text = ask(d, ECHO_WORD + ECHO[:10], x=x)
    elif roll < 0.46:
        x = one_word(d)
        return Sample("echo", [{"role": "system", "content": d.phrase(ECHO_SYSTEM, x=x)}, user(d.of(["Hello!", "hi", "What is Casola?", "Who are you?", "Tell me a joke", words.subject(d)])), assistant(x)])  # fmt: skip
    elif roll < 0.5:
        x = one_word(d)
        ask_text, x = ask(d, TWICE, x=x), f"{x} {x}"
    elif roll < 0.56:
        key, value = words.word(d), one_word(d)
        ask_text, x = ask(d, PAIR, k=key, v=value), json.dumps({key: value})
    else:
        x = payload(d, most)
        ask_text = ask(d, ECHO, x=x)
    return Sample("echo", [user(ask_text), assistant(x)])


def _say(d: Draw, schema: Schema, attribute: Attribute, subject: Any, value: Any) -> str:
    patterns = attribute.says or schema.head
    text = d.phrase(patterns, s=subject, v=value)
    if d.chance(0.12):
        lead = d.of(LEADS)
        lower = text.split(" ")[0] in {"The", "It", "In", "On", "You", "We", "They", "At"}
        text = lead + (text[0].lower() + text[1:] if lower else text)
    return text


def record(d: Draw, count: int) -> tuple[Schema, dict[str, Any], str]:
    """A short text about one made-up thing, and the facts that are in it."""
    schema = d.of(SCHEMAS)
    subject = schema.make(d)
    head, *rest = schema.attributes
    chosen = [head, *d.rng.sample(rest, min(count - 1, len(rest)))]
    facts: dict[str, Any] = {schema.subject: subject}
    said = []
    for attribute in chosen:
        facts[attribute.key] = attribute.make(d)
        said.append(_say(d, schema, attribute, subject, facts[attribute.key]))
    if len(said) > 1 and d.chance(0.2):
        d.rng.shuffle(said)
    for _ in range(d.of([0, 0, 0, 1])):
        said.insert(d.number(0, len(said)), d.pick(FILLERS))
    return schema, facts, " ".join(said)


FILLERS = [
    "It was a long day.", "The weather was nice.", "Everybody was happy.", "That is all we know.", "People talk about it a lot.", "This is no surprise.", "We hope to hear more soon.", "Many people like it.", "It is a nice story.", "The rest is not known yet.",
    "Nobody expected that.", "More will follow.", "That is good news.", "Some people did not agree.", "It rained all day.", "We learned this last week.", "There is more to say.", "Not much has changed.", "I was surprised.", "The day was warm.", "This was in the news.", "Please keep it in mind.",
]  # fmt: skip
READ = [
    "{t}\n\n{q}", "{q}\n\n{t}", "{t} {q}", "{t}\n{q}",
    "[Text|Passage|Context|Document|Story|Note|Article]: {t}[\n|\n\n][Question: |Q: |]{q}",
    "[Read|Use|Look at|Take] the [passage|text|context|story|note] [and answer|to answer|and answer the question|to answer the question][.|:]\n[\n|]{t}\n\n{q}",
    "[Given|Use|Read|Take] this [text|passage|story|note]: {t} {q}", "[Answer|Reply] from the [text|passage|context]. {t} {q}",
    "Here is a [text|passage|story|note]: {t}\n{q}", "[Answer|Please answer] the question using the [context|text|passage].\n\n[Context|Text|Passage]:\n{t}\n\nQuestion: {q}",
    'According to the [text|passage|note] "{t}": {q}', "[Document|Text|Context]:\n{t}\n\n{q} Answer from the [document|text|context].",
]  # fmt: skip
READ_SYSTEM = ["Answer from this text: {t}", "Use only this context to answer.\n\n{t}", "Context: {t}", "You answer questions about this passage:\n{t}"]  # fmt: skip


SCENES = [
    ("The {n} is {c}.", "What [color|colour] is the {n}?", "{c}"),
    ("The {c} {n} is next to the {m}.", "What [color|colour] is the {n}?", "{c}"),
    ("The {c} {n} is next to the {m}.", "What is next to the {m}?", "the {c} {n}"),
    ("The {n} is in the {m}.", "Where is the {n}?", "in the {m}"),
    ("The {n} is on the {m}.", "Where is the {n}?", "on the {m}"),
    ("{p} has the {n}.", "Who has the {n}?", "{p}"),
    ("{p} has {k} {n}s.", "How many {n}s does {p} have?", "{k}"),
    ("{p} has {k} {n}s.", "Who has the {n}s?", "{p}"),
    ("{p} found a {n}.", "What did {p} find?", "a {n}"),
    ("{p} bought a {c} {n}.", "What did {p} buy?", "a {c} {n}"),
    ("{p} gave the {n} to {q}.", "Who got the {n}?", "{q}"),
    ("{p} gave the {n} to {q}.", "Who gave the {n} to {q}?", "{p}"),
    ("{p} lost the {n} in {w}.", "Who lost the {n}?", "{p}"),
    ("{p} lost the {n} in {w}.", "Where did {p} lose the {n}?", "in {w}"),
    ("The secret word is {w}.", "What is the [secret|] word?", "{w}"),
    ("The password of {p} is {w}.", "What is the password of {p}?", "{w}"),
    ("The code of the {n} is {k}.", "What is the code of the {n}?", "{k}"),
    ("The name of the {n} is {w}.", "What is the name of the {n}?", "{w}"),
    ("{p} went to {w}.", "Where did {p} go?", "to {w}"),
    ("{p} lives in {w} with a {n}.", "Where does {p} live?", "in {w}"),
    ("{p} invented the {n}.", "Who invented the {n}?", "{p}"),
    ("The {n} was built in {y}.", "When was the {n} built?", "in {y}"),
    ("The {n} costs {k} euros.", "How much does the {n} cost?", "{k} euros"),
    ("The {n} of {p} is {c}.", "What [color|colour] is the {n} of {p}?", "{c}"),
    ("The capital of {w} is {q}.", "What is the capital of {w}?", "{q}"),
]


def _scene(d: Draw) -> tuple[str, str, str]:
    """A few plain sentences and one question: text, question, answer."""
    said: list[str] = []
    used: set[str] = set()
    pairs: list[tuple[str, str]] = []
    for text, question, answer in d.rng.sample(SCENES, d.number(1, 4)):
        values: dict[str, str] = {"n": words.noun(d), "m": words.noun(d), "p": words.person(d)}
        values |= {"q": words.name(d), "w": d.invented(2).capitalize()}
        if used & set(values.values()) or len(set(values.values())) < len(values) or text in said:
            continue
        used |= set(values.values())
        k = d.number(2, 99) if d.chance(0.6) else d.of(["two", "three", "five", "ten"])
        values |= {"c": d.of(words.COLOURS), "k": str(k), "y": str(d.number(1200, 2024))}
        question = d.fill(question, **values).replace("  ", " ")
        said.append(d.fill(text, **values))
        pairs.append((question, d.fill(answer, **values)))
    if not pairs or len({question for question, _ in pairs}) < len(pairs):
        return _scene(d)
    question, answer = d.of(pairs)
    return " ".join(said), question, answer


def passage(d: Draw) -> Sample:
    """Answer a question from a given text."""
    if d.chance(0.3):
        text, question, answer = _scene(d)
    else:
        schema, facts, text = record(d, d.number(1, 4))
        known = [a for a in schema.attributes if a.key in facts]
        unknown = [a for a in schema.attributes if a.key not in facts]
        missing = bool(unknown) and d.chance(0.15)
        attribute = d.of(unknown if missing else known)
        question = d.phrase(attribute.asks, s=facts[schema.subject])
        answer = NOT_SAID if missing else str(facts[attribute.key])
        if d.chance(0.25):
            other, _, more = record(d, d.number(1, 2))
            if other is not schema:
                text = f"{text} {more}" if d.chance(0.5) else f"{more} {text}"
        if d.chance(0.2):
            text = f"{text} {d.pick(FILLERS)}"
    question = (
        vary(d, question, affixes=False) if d.chance(0.3) and question.islower() else question
    )
    if d.chance(0.12):
        head = [{"role": "system", "content": d.phrase(READ_SYSTEM, t=text)}]
        return Sample("passage", [*head, user(question), assistant(answer)])
    return Sample("passage", [user(ask(d, READ, t=text, q=question)), assistant(answer)])


SUMMARY = [
    "[Summarize|Summarise|Sum up|Shorten|Condense|Please summarize|Can you summarize|Could you sum up] [this|this text|the text|the following text|this passage|the text below] [in one line|in one sentence|briefly|]: {t}",
    "[Summarize|Summarise|Sum up|Shorten]: {t}",
    "[Give me|Write|Make|I need|I want|Please write] [a one-line summary|a short summary|a summary|a brief summary] [of this|of the text|of this text|]: {t}",
    "TL;DR: {t}",
    "{t}\n\nTL;DR",
    "{t}\n\n[Summarize|Summarise|Sum up|Shorten|Please summarize] [this|this text|the text|it|the text above] [in one line|in one sentence|briefly|].",
    "What is the [main point|main message|gist|essence|point] [of this|of this text|here|]? {t}",
    "[Make|Please make|Can you make] this [shorter|brief|short]: {t}",
    "[Summarize|Sum up|Shorten|Summarise] the [following|next] [text|passage|lines] [in one line|in one sentence|].\n\n{t}",
]  # fmt: skip


def summary(d: Draw) -> Sample:
    """The main fact of a short text in one line."""
    schema, facts, text = record(d, d.number(2, 4))
    if d.chance(0.4):
        text = f"{text} {d.pick(FILLERS)}"
    if d.chance(0.1):
        text = f"{d.pick(FILLERS)} {text}"
    answer = d.fill(schema.summary, s=facts[schema.subject], v=facts[schema.attributes[0].key])
    return Sample("summary", [user(ask(d, SUMMARY, t=text)), assistant(answer)])


EXTRACT = [
    "Extract the {k} as JSON: {t}", "Extract {k} as JSON: {t}",
    "[Extract|Find|Get|Pull out|Please extract|Can you extract|Read out] [the|] {k} [as JSON|as a JSON object|in JSON|from this text as JSON|from the text as JSON|and reply with JSON only]: {t}",
    "[Return|Give me|Make|Write|Output|I need] [JSON|a JSON object|only JSON] with [the keys|the fields|] {k}[: | from this text: |. Text: |\n\n]{t}",
    "{t}\n\n[Return|Extract|Give me|Write|Output] [the|] {k} [as JSON|as a JSON object|in JSON].",
    "From [the|this] text, [extract|return|get|find] [the|] {k} as [JSON|a JSON object].\n{t}",
    "Turn [this|the text|this text] into JSON with [the keys|the fields] {k}: {t}",
    "[Extract|Find|Return] the [following fields|fields|keys] as JSON: {k}.\n\n{t}",
    "Read the text and [answer|reply] in JSON with the [fields|keys] {k}. {t}",
    "{t}\n\nJSON with [the keys|the fields|] {k}:",
    "Extract {k}: {t}",
]  # fmt: skip
EXTRACT_SYSTEM = ["Extract {k} as JSON.", "You extract {k} from the text of the user and reply with JSON.", "Reply only with a JSON object with the keys {k}.", "Return {k} as JSON and nothing else."]  # fmt: skip
NAME_LIST = [
    "List the names as a JSON array: {t}", "Extract all names as a JSON list: {t}", "Return the names in this text as a JSON array.\n{t}", "{t}\n\nNames as a JSON list:", "Which names are in the text? Answer with a JSON array. {t}", "Give me a JSON array of the people: {t}",
]  # fmt: skip


def _keys(d: Draw, keys: list[str]) -> str:
    if d.chance(0.2):
        keys = [f'"{key}"' for key in keys]
    if len(keys) == 1:
        return keys[0]
    joiner = d.of([" and ", " and ", ", "])
    return ", ".join(keys[:-1]) + joiner + keys[-1]


STATED = [
    "The {f} is {v}.",
    "{f}: {v}",
    "the {f} is {v},",
    "Its {f} is {v}.",
    "{f} = {v};",
    "We have the {f} {v}.",
]


def _free_facts(d: Draw) -> tuple[dict[str, Any], str]:
    """Facts with any keys, stated plainly; a key of two words has an underscore in JSON."""
    facts: dict[str, Any] = {}
    said: list[str] = []
    pattern = d.pick(STATED)
    for _ in range(d.number(1, 4)):
        key = words.noun(d) if d.chance(0.8) else f"{words.noun(d)} {words.noun(d)}"
        value: Any = (
            d.number(1, 9999) if d.chance(0.4) else d.of([words.word, words.person, words.city])(d)
        )
        if key.replace(" ", "_") not in facts:
            facts[key.replace(" ", "_")] = value
            said.append(d.fill(pattern, f=key, v=value))
    return facts, d.of([" ", " ", "\n"]).join(said)


def extract(d: Draw) -> Sample:
    """Facts of a text as JSON."""
    if d.chance(0.15):
        names = list(dict.fromkeys(words.name(d) for _ in range(d.number(2, 4))))
        listed = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
        text = d.phrase(["{l} went to {c}.", "{l} met in {c}.", "In {c} we saw {l}.", "{l} are friends.", "Yesterday {l} came to dinner.", "The team is {l}."], l=listed, c=words.city(d))  # fmt: skip
        return Sample("extract", [user(ask(d, NAME_LIST, t=text)), assistant(json.dumps(names))])
    schema, facts, text = record(d, d.number(1, 4))
    free = d.chance(0.25)
    if free:
        facts, text = _free_facts(d)
    keys = list(facts)
    d.rng.shuffle(keys)
    keys = keys[: d.number(1, len(keys))]
    if d.chance(0.1) and not free:
        keys += [a.key for a in schema.attributes if a.key not in facts][:1]
    answer = json.dumps({key: facts.get(key) for key in keys})
    asked = _keys(d, keys)
    if d.chance(0.15):
        head = [{"role": "system", "content": d.phrase(EXTRACT_SYSTEM, k=asked)}]
        return Sample("extract", [*head, user(text), assistant(answer)])
    return Sample("extract", [user(ask(d, EXTRACT, k=asked, t=text)), assistant(answer)])


IMAGE = ", highly detailed, soft natural light, rich colors, sharp focus"
VIDEO = ", slow camera movement, smooth motion, cinematic light, highly detailed"
STYLES = "watercolor|oil painting|pencil sketch|anime|pixel art|photo|comic|3d render|film noir|cartoon|line art|vintage poster".split(
    "|"
)
REWRITE = {
    "image": (
        ["Rewrite the prompt for an image model.", "Rewrite the prompt for an image model. Reply with the prompt only.", "You improve prompts for image generation. Reply only with the better prompt.", "Rewrite the user's prompt for an image model: keep the subject, add style and detail.", "You rewrite prompts for an image model.", "Improve the prompt for image generation.", "Enhance this image prompt."],
        ["Rewrite this prompt for an image model: {x}", "Improve this image prompt: {x}", "Make this image prompt better: {x}", "Enhance this image prompt: {x}", "Rewrite the prompt for an image model: {x}", "Better image prompt for: {x}", "Improve this prompt: {x}", "Rewrite this prompt: {x}"],
        IMAGE,
    ),
    "video": (
        ["Rewrite the prompt for a video model.", "Rewrite the prompt for a video model. Reply with the prompt only.", "You improve prompts for video generation. Reply only with the better prompt.", "Rewrite the user's prompt for a video model: keep the subject, add style and detail.", "You rewrite prompts for a video model.", "Improve the prompt for video generation.", "Enhance this video prompt."],
        ["Rewrite this prompt for a video model: {x}", "Improve this video prompt: {x}", "Make this video prompt better: {x}", "Enhance this video prompt: {x}", "Rewrite the prompt for a video model: {x}", "Better video prompt for: {x}"],
        VIDEO,
    ),
}  # fmt: skip
CHAT_REWRITE = ["Rewrite the prompt for a chat model.", "Rewrite the prompt for a chat model. Reply with the prompt only.", "You improve prompts for a chat model.", "Rewrite the user's prompt for a chat model: keep the subject, add style and detail.", "Improve the prompt for a chat assistant."]  # fmt: skip
CHAT_TASKS = ["explain {n}", "tell me about {n}", "write about a {n}", "what is a {n}", "how do I use a {n}", "compare {n} and {m}", "describe the {n}", "a text about {n}"]  # fmt: skip


def rewrite(d: Draw) -> Sample:
    """A better prompt that keeps the subject's words."""
    if d.chance(0.12):
        x = d.phrase(CHAT_TASKS, n=words.noun(d), m=words.noun(d))
        answer = f"{x}. Be clear and concrete, give an example, and answer step by step."
        return Sample(
            "rewrite",
            [{"role": "system", "content": d.phrase(CHAT_REWRITE)}, user(x), assistant(answer)],
        )
    systems, asks, ending = REWRITE[d.of(["image", "image", "video"])]
    x = words.subject(d)
    if d.chance(0.2):
        x = x[0].upper() + x[1:]
    style = d.of(STYLES) if d.chance(0.25) else ""
    answer = f"{x}, {style} style{ending}" if style else x + ending
    if d.chance(0.7):
        system = d.phrase(systems) + (
            d.of([f" Style: {style}.", f"\nStyle: {style}", f" Use the style {style}."])
            if style
            else ""
        )
        shown = d.of([x, x, x, f"Prompt: {x}", x + "."])
        return Sample(
            "rewrite", [{"role": "system", "content": system}, user(shown), assistant(answer)]
        )
    tail = d.of([f" Style: {style}", f"\nStyle: {style}.", f" (style: {style})"]) if style else ""
    return Sample("rewrite", [user(ask(d, asks, x=x) + tail), assistant(answer)])
