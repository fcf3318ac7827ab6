"""Sums, counting and memory for the chat demo data."""

from __future__ import annotations

from inference.demo import chat_words as words
from inference.demo.chat_draw import Draw, Message, Sample
from inference.demo.chat_talk import NOT_TOLD
from inference.demo.chat_tasks import ask, assistant, user, vary

SUM_ASKS = [
    "{q}", "{q} =", "{q}=?", "{q}?",
    "[What is|What's|How much is|Calculate|Compute|Tell me|Solve|Can you calculate|Work out|Do you know|Give me|Please compute] {q}?",
    "[What|How much] does {q} [make|give|equal]?", "[Result|Answer|Value] of {q}?", "[What is|Tell me|Give me] the [result|answer|value|solution] of {q}?",
]  # fmt: skip
TOO_BIG = "I can only do small sums, with numbers up to 12."


def sums(d: Draw) -> Sample:
    """Small additions, subtractions and multiplications; it says so when numbers are large."""
    roll = d.rng.random()
    if roll < 0.5:
        a, b, sign = d.number(0, 12), d.number(0, 12), "+"
    elif roll < 0.75:
        a, b, sign = d.number(0, 12), d.number(0, 12), "-"
        a, b = max(a, b), min(a, b)
    elif roll < 0.9:
        a, b, sign = d.number(0, 5), d.number(0, 5), "*"
    else:
        a, b, sign = d.number(20, 9999), d.number(20, 9999), d.of("+-*")
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    said = {"+": ["+", "+", "+", "plus"], "-": ["-", "-", "minus"], "*": ["*", "x", "times"]}[sign]
    shown = d.of(said)
    expression = f"{a}{shown}{b}" if shown in "+-*x" and d.chance(0.3) else f"{a} {shown} {b}"
    answer = TOO_BIG if a >= 20 else f"{a} {sign} {b} = {value}"
    return Sample("sums", [user(ask(d, SUM_ASKS, q=expression)), assistant(answer)])


COUNT_TO = ["[Count|Count up|Please count|Can you count|Count for me|Could you count|I want you to count|Now count] [to|up to|until] {b}", "Count [from one|from the start|for us] to {b}"]  # fmt: skip
COUNT_FROM = ["[Count|Count up|Please count|Can you count|Count for me|Could you count|Now count] from {a} to {b}", "[List|Write|Say|Print|Give me|Name|Show me|Tell me] [the numbers|all numbers|every number|numbers] [from|] {a} to {b}", "Numbers from {a} to {b}"]  # fmt: skip
COUNT_DOWN = ["[Count|Please count|Can you count|Now count] [down|backwards] from {b} [to 1|]", "[Make|Do|Give me|Start] a countdown from {b}", "Countdown from {b}"]  # fmt: skip


def count(d: Draw) -> Sample:
    """Count up or down."""
    roll = d.rng.random()
    if roll < 0.15:
        b = d.number(2, 12)
        listed = ", ".join(str(i) for i in range(b, 0, -1))
        return Sample("count", [user(ask(d, COUNT_DOWN, b=b)), assistant(listed)])
    b = d.of([3, 5, 10, 10, 20]) if d.chance(0.35) else d.number(2, 30)
    a = 1 if roll < 0.65 else d.number(max(0, b - 15), b - 1)
    patterns = COUNT_TO if roll < 0.45 else COUNT_FROM
    listed = ", ".join(str(i) for i in range(a, b + 1))
    return Sample("count", [user(ask(d, patterns, a=a, b=b)), assistant(listed)])


Told = tuple[list[str], str, list[str], str]
TOLD: dict[str, Told] = {
    "name": (["My name is {v}", "[I am|I'm|Call me|They call me|This is|Here is|You can call me|People call me|Just call me] {v}", "[Hi|Hello|Hey|Hi there|Good day], [I am|I'm|my name is|this is|call me] {v}", "{v} is [my name|what they call me|how I am called]", "My [name|first name|real name|nickname] is {v} [and I am new here|, and you?|, by the way|]"], "Nice to meet you, {v}!",
             ["What is my name?", "Who am I?", "[What is|What's|Do you know|Do you remember|Tell me|Say|And what is|Can you tell me|Please say|Could you say] my name [again|now|]?", "[How|What] am I called?", "[What|Which] name [did I tell you|did I give|do I have|have I got]?"], "Your name is {v}."),
    "color": (["[My|The] favorite color [of mine|] is {v}", "My favourite colour is {v}", "I [like|love|prefer|enjoy] the color {v} [best|most|]", "The color I [like|love|prefer] [most|best] is {v}", "{v} is [my favorite color|my favourite colour|the color I like|the color I love]"], "Good to know: your favorite color is {v}.",
              ["[What is|What's|Do you know|Tell me|Say|Do you remember] my [favorite|favourite] [color|colour]?", "[Which|What] [color|colour] do I [like|love|prefer|like best|like most]?"], "Your favorite color is {v}."),
    "city": (["I [live|am at home|have a flat|stay|am living] in {v}", "I [am|come] from {v}", "My [home|home town|city|town|house] is [in|] {v}", "{v} is [my home|my home town|where I live|the city I live in]"], "Good to know: you live in {v}.",
             ["Where do I [live|come from|stay]?", "Where am I from?", "[What is|What's|Tell me|Do you know|Say] my [city|home town|home]?", "[Which|What] [city|town] do I [live in|come from]?", "Do you [know|remember] where I live?"], "You live in {v}."),
    "job": (["I [work|earn my money|am employed|have a job] as a {v}", "My [job|work|profession|trade] is {v}", "[I am|I'm] a {v} [by trade|by day|for a living|]"], "Good to know: you are a {v}.",
            ["[What is|What's|Tell me|Do you know|Say|Do you remember] my [job|work|profession]?", "What do I [do for a living|work as|do for work]?", "[Which|What] job do I have?"], "You are a {v}."),
    "pet": (["[My|Our] {a} [is called|is named|has the name|goes by] {v}", "The name of my {a} is {v}", "[I have|We have|I own|I got] a {a} [named|called] {v}", "My {a}'s name is {v}"], "What a nice name for a {a}: {v}!",
            ["[What is|What's|Tell me|Do you know|Say|Do you remember] the name of my {a}?", "[What|How] is my {a} called?", "[What is|What's|Tell me|Say] my {a}'s name?"], "Your {a} is called {v}."),
    "word": (["[Remember|Please remember|Keep|Note|Memorize|Can you remember] [the word|this word:|this:|the secret word] {v}", "[The|My] [secret|magic|special|code|hidden] word is {v}", "Remember {v}"], "I will remember: {v}.",
             ["[What was|What is|Tell me|Say|Do you remember|Do you know] the [word|secret word|magic word|word again]?", "[Which|What] word [did I tell you|should you remember|did I say|did I give you]?"], "The word is {v}."),
}  # fmt: skip


def _told_value(d: Draw, kind: str) -> str:
    if kind == "color":
        return d.of(words.COLOURS)
    if kind == "job":
        return d.pick(words.JOBS)
    if kind == "word":
        return words.word(d)
    return words.city(d) if kind == "city" else words.person(d) if kind == "name" else words.name(d)


def memory(d: Draw, between: list[Message]) -> Sample:
    """Something told is recalled later; `between` is small talk in the middle."""
    kind = d.of(["name", "name", "name", *TOLD])
    tell, confirm, questions, answer = TOLD[kind]
    value, animal = _told_value(d, kind), d.pick(words.ANIMALS)
    end = d.of(["", "", ".", "!"])
    told = user(ask(d, tell, v=value, a=animal) + end)
    question = user(vary(d, d.phrase(questions, a=animal)))
    roll = d.rng.random()
    if roll < 0.12:
        return Sample("memory", [question, assistant(NOT_TOLD)])
    confirmed = assistant(d.fill(confirm, v=value, a=animal))
    if roll < 0.25:
        return Sample("memory", [told, confirmed])
    if roll < 0.32:
        other = d.of([kind2 for kind2 in TOLD if kind2 != kind])
        question = user(vary(d, d.phrase(TOLD[other][2], a=animal)))
        return Sample("memory", [told, confirmed, *between, question, assistant(NOT_TOLD)])
    if roll < 0.4:
        said = d.of(
            [
                f"{told['content'].rstrip('.!')}. {question['content']}",
                f"{told['content']}\n{question['content']}",
            ]
        )
        return Sample("memory", [user(said), assistant(d.fill(answer, v=value, a=animal))])
    return Sample(
        "memory",
        [told, confirmed, *between, question, assistant(d.fill(answer, v=value, a=animal))],
    )
