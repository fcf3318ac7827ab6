"""Fixed answers, simple facts and the phrasing files of the chat demo data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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
    "What's the capital of {x}?",
    "Capital of {x}?",
    "Tell me the capital of {x}",
    "Name the capital of {x}",
    "Which city is the capital of {x}?",
    "{x} capital?",
    "Do you know the capital of {x}?",
    "What city is the capital of {x}?",
    "What is the capital city of {x}?",
    "The capital of {x} is",
    "Give me the capital of {x}",
    "Which is the capital city of {x}?",
]
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
    "What's the opposite of {x}?",
    "Give me the opposite of {x}",
    "Which word is the opposite of {x}?",
    "Name the opposite of the word {x}",
    "Tell me the opposite of {x}",
]
FRAMES = [
    "Tell me about {t}",
    "Tell me [something|more|a bit] about {t}",
    "What about {t}?",
    "{t}",
    "{t}?",
    "Explain {t}",
    "Explain {t} to me",
    "I have a question about {t}",
    "I want to know [about|more about] {t}",
    "Can you explain {t}?",
    "What can you tell me about {t}?",
    "What do you know about {t}?",
    "Info on {t}",
    "Help me with {t}",
    "I need help with {t}",
    "Do you know [about|anything about] {t}?",
    "What should I know about {t}?",
    "Could you say something about {t}?",
    "Question about {t}",
    "How does it work with {t}?",
    "Give me a hint about {t}",
]
ON = ["", "", "", " on Casola", " in Casola", " at Casola", " with Casola", " on casola", " here"]


@dataclass(slots=True)
class Intent:
    """One fixed answer with the topics it can be asked for by name and its phrasings."""

    skill: str
    answer: str
    topics: list[str] = field(default_factory=list)
    asks: list[str] = field(default_factory=list)


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
