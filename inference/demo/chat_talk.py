"""Fixed answers, simple facts and the phrasing files of the chat demo data."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from inference.demo.chat_draw import Draw

DATA = Path(__file__).parent / "data"
HELLO = "Hello! How can I help you today?"
DONT_KNOW = "I don't know that. I am a tiny demo model and know only a few things."
NO_LIVE = "I cannot look that up: I am a tiny demo model without live data."
CANNOT = "I cannot do that: I am only a tiny demo model."
NO_CASOLA = "I don't know that about Casola. The documentation at /docs may say."
NOT_TOLD = "I don't know: you have not told me."
I_SEE = "I see. Is there something I can help you with?"
UNCLEAR = "I did not understand that. Could you say it in other words?"
REFUSALS = (DONT_KNOW, NO_LIVE, CANNOT, NO_CASOLA, NOT_TOLD, UNCLEAR)

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "England": "London",
    "Ireland": "Dublin",
    "Austria": "Vienna",
    "Switzerland": "Bern",
    "Poland": "Warsaw",
    "Greece": "Athens",
    "Sweden": "Stockholm",
    "Norway": "Oslo",
    "Denmark": "Copenhagen",
    "Finland": "Helsinki",
    "Belgium": "Brussels",
    "Hungary": "Budapest",
    "Japan": "Tokyo",
    "China": "Beijing",
    "India": "New Delhi",
    "Russia": "Moscow",
    "Ukraine": "Kyiv",
    "Turkey": "Ankara",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Canada": "Ottawa",
    "Mexico": "Mexico City",
    "Brazil": "Brasilia",
    "Argentina": "Buenos Aires",
    "Chile": "Santiago",
    "Peru": "Lima",
    "Cuba": "Havana",
    "Australia": "Canberra",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "South Korea": "Seoul",
    "Indonesia": "Jakarta",
    "the United States": "Washington, D.C.",
    "the USA": "Washington, D.C.",
    "the Netherlands": "Amsterdam",
    "the United Kingdom": "London",
    "the UK": "London",
}
CAPITAL_ASKS = [
    "What is the capital of {x}?",
    "[What is|What's|Tell me|Name|Do you know|Give me|Which is|Say|Can you name|And] the [capital|capital city|capital town] of {x}",
    "[Which|What] [city|town|place] is the capital [city|] of {x}?",
    "{x} capital?",
    "Capital of {x}?",
    "The capital of {x} is",
    "[What is|What's|Tell me|Name|Do you know] the capital [city|] [{x} has|that {x} has]?",
    "What [capital|capital city] does {x} have?",
]  # fmt: skip
OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "fast": "slow",
    "light": "dark",
    "up": "down",
    "day": "night",
    "happy": "sad",
    "good": "bad",
    "old": "young",
    "tall": "short",
    "open": "closed",
    "wet": "dry",
    "full": "empty",
    "hard": "soft",
    "loud": "quiet",
    "rich": "poor",
    "left": "right",
    "early": "late",
    "strong": "weak",
    "near": "far",
    "clean": "dirty",
    "black": "white",
    "high": "low",
}
OPPOSITE_ASKS = [
    "What is the opposite of {x}?",
    "Opposite of {x}?",
    "[What is|What's|Give me|Tell me|Name|Do you know|Say|Which word is] the opposite of [the word|] {x}",
    "[What|Which word] is [opposite to|the contrary of|the reverse of] [the word|] {x}?",
]  # fmt: skip
FRAMES = [
    "{t}",
    "{t}?",
    "What about {t}?",
    "[Tell me|Explain|Say|I want to hear|Write|Can you tell me|Could you tell me|Please tell me] [something|more|a bit|a little] about {t}",
    "[Explain|Describe|Can you explain|Could you explain|Please explain|Can you describe] {t} [to me|briefly|]",
    "[I have|I've got|There is|Here is] [a question|some questions|one more question] about {t}",
    "[I want to|I would like to|I need to|Let me] [know|learn|understand|read] [about|more about] {t}",
    "What [can you tell me|do you know|should I know|is there to know|can you say] about {t}?",
    "[Info|Information|Question|Details|Help] [on|about|regarding] {t}",
    "[Help me|I need help|I need some help|Can you help me|Please help] with {t}",
    "[How does it work|How is it|What is it|What is up] with {t}?",
    "Do you know [about|anything about|something about|a bit about] {t}?",
]  # fmt: skip
ON = ["", "", "", " on Casola", " in Casola", " at Casola", " with Casola", " on casola", " here"]


@dataclass(slots=True)
class Intent:
    """One fixed answer with the topics it can be asked for by name and its phrasings."""

    skill: str
    answer: str
    topics: list[str] = field(default_factory=list)
    asks: list[str] = field(default_factory=list)


OPENERS = [
    (r"What(?: is|'s|s) (?!a |an |your)", ["What is ", "What is ", "What's ", "Whats ", "Tell me ", "Can you tell me ", "Do you know ", "what exactly is "]),
    (r"(?:How do I|How can I|How to) ", ["How do I ", "How can I ", "How to ", "How should I ", "How would I ", "Tell me how to ", "Can you tell me how to ", "I want to know how to "]),
    (r"Can I ", ["Can I ", "Could I ", "Is it possible to ", "May I ", "Am I able to "]),
    (r"(?:Which|What) (?=[a-z]+s )", ["Which ", "What "]),
    (r"Where (?:do|can) I ", ["Where do I ", "Where can I ", "Where should I ", "Where would I "]),
    (r"(?:Write|Compose) (?:me )?", ["Write ", "Write me ", "Please write ", "Can you write ", "Could you write ", "Compose ", "I want you to write "]),
    (r"Tell (?:me )?(?!about)", ["Tell me ", "Tell me ", "Please tell me ", "Can you tell me ", "Could you tell me ", "I want you to tell me "]),
    (r"Give me ", ["Give me ", "Please give me ", "Can you give me ", "I want ", "I'd like ", "I would like "]),
    (r"(?:Explain|Describe) ", ["Explain ", "Explain ", "Describe ", "Please explain ", "Can you explain ", "Could you explain "]),
    (r"How many ", ["How many ", "How many ", "Tell me how many ", "Do you know how many "]),
    (r"Does Casola ", ["Does Casola ", "Does Casola ", "Will Casola ", "Can Casola "]),
]  # fmt: skip
SWAPS = [(r"\bI am\b", "I'm"), (r"\byou are\b", "you're"), (r"\bdo not\b", "don't"), (r"\bcolou?r\b", "color"), (r"\bfavou?rite\b", "favorite"), (r"\bmake\b", "create"), (r"\bget\b", "obtain"), (r"\bvery\b", "really")]  # fmt: skip


def reword(d: Draw, text: str) -> str:
    """The same question with another beginning or a synonym; what is held out stays as it is."""
    if d.split == "test":
        return text
    if d.chance(0.4):
        for pattern, choices in OPENERS:
            found = re.match(pattern, text)
            if found:
                return d.of(choices) + text[found.end() :]
    if d.chance(0.15):
        pattern, other = d.of(SWAPS)
        text = re.sub(pattern, other, text)
    return text


def load(name: str, skill: str = "") -> list[Intent]:
    """Read a phrasing file: `# skill`, `= answer`, `~ topics`, then phrasings divided by ` ; `."""
    intents: list[Intent] = []
    for line in (DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            skill = line[2:]
        elif line.startswith("= "):
            intents.append(Intent(skill, line[2:].replace("\\n", "\n")))
        elif line.startswith("~ "):
            intents[-1].topics += line[2:].split(" ; ")
        elif line:
            intents[-1].asks += line.split(" ; ")
    return intents
