"""Sentences that the transcription demo weights are trained on: frames, words and a seed.

English is transcribed; German is transcribed, and translated into the English beside it. Of what
the frames can say a tenth, chosen by the text itself, is held out from training.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass

ENGLISH, GERMAN = "en", "de"
HELD_OUT = 10  # of so many texts one
_SLOT = re.compile(r"\{(\w+)\}")

# Words by their slot: English | German, where the German frames have the slot.
WORDS: dict[str, tuple[str, ...]] = {
    "name": ("Anna", "Ben", "Clara", "David", "Felix", "Julia", "Martin", "Sarah"),
    "number": (
        "two|zwei", "three|drei", "four|vier", "five|fünf", "six|sechs", "seven|sieben",
        "eight|acht", "nine|neun", "ten|zehn", "eleven|elf", "twelve|zwölf", "twenty|zwanzig",
        "thirty|dreißig", "fifty|fünfzig",
    ),
    "hour": (
        "one|eins", "two|zwei", "three|drei", "four|vier", "five|fünf", "six|sechs",
        "seven|sieben", "eight|acht", "nine|neun", "ten|zehn", "eleven|elf", "twelve|zwölf",
    ),
    "colour": (
        "red|rote", "blue|blaue", "green|grüne", "yellow|gelbe", "black|schwarze", "white|weiße",
        "brown|braune", "grey|graue",
    ),
    "size": ("big|große", "small|kleine", "old|alte", "new|neue", "long|lange", "round|runde"),
    "thing": (
        "house|Haus", "car|Auto", "book|Buch", "picture|Bild", "bread|Brot", "boat|Boot",
        "dress|Kleid", "window|Fenster", "bicycle|Fahrrad", "horse|Pferd",
    ),
    "other": ("table", "chair", "lamp", "door", "bag", "hat", "clock", "key"),
    "things": (
        "apples|Äpfel", "books|Bücher", "letters|Briefe", "flowers|Blumen", "tickets|Karten",
        "pictures|Bilder", "cats|Katzen", "dogs|Hunde", "children|Kinder", "bottles|Flaschen",
    ),
    "place": (
        "in the garden|im Garten", "in the kitchen|in der Küche", "at the station|am Bahnhof",
        "behind the school|hinter der Schule", "near the river|am Fluss",
        "in the city|in der Stadt", "on the road|auf der Straße", "in front of the hotel|vor dem Hotel",
    ),
    "city": ("Berlin|Berlin", "London|London", "Paris|Paris", "Rome|Rom", "Vienna|Wien"),
    "day": (
        "Monday|Montag", "Tuesday|Dienstag", "Wednesday|Mittwoch", "Thursday|Donnerstag",
        "Friday|Freitag", "Saturday|Samstag", "Sunday|Sonntag",
    ),
    "month": ("January", "April", "August", "October"),
    "weather": ("warm|warm", "cold|kalt", "fine|schön", "bad|schlecht", "wet|nass"),
    "time": ("today|heute", "tomorrow|morgen", "now|jetzt"),
    "drink": ("tea|Tee", "coffee|Kaffee", "milk|Milch", "water|Wasser", "soup|Suppe"),
    "verb": ("buy", "sell", "find", "bring", "paint", "clean"),
    "shop": ("bakery", "bank", "library", "museum", "office", "market"),
    "mood": ("happy", "tired", "late", "ready", "hungry", "busy"),
}  # fmt: skip

FRAMES = (
    "Hello, welcome to Casola!",
    "Hello, this is a sample recording.",
    "Hello, {name}. How are you {time}?",
    "Good morning, {name}.",
    "Good evening, and welcome to {city}.",
    "Thank you very much, {name}.",
    "My name is {name}, and I am {mood}.",
    "{name} and {name} are {mood} {time}.",
    "The {colour} {thing} is {place}.",
    "The {size} {colour} {other} is {place}.",
    "{name} has {number} {colour} {things}.",
    "{name} has {number} {things} and {number} {other}s.",
    "We need {number} {things} and a {size} {other}.",
    "The {other} costs {number} dollars.",
    "Please {verb} the {colour} {other}.",
    "Please {verb} the {size} {thing} on {day}.",
    "I will {verb} the {things} {time}.",
    "They {verb} {number} {things} in {month}.",
    "The train to {city} leaves at {hour}.",
    "The {shop} opens at {hour} and closes at {hour}.",
    "The {shop} is {place}.",
    "Where is the {shop}?",
    "When does the {shop} open {time}?",
    "The meeting is on {day} at {hour}.",
    "We meet {name} on {day} at {hour}.",
    "The weather in {city} is {weather} {time}.",
    "It was {weather} in {month}, but it is {weather} {time}.",
    "I would like a cup of {drink}, please.",
    "A bottle of {drink} is on the {other}.",
    "{name} lives in a {size} house in {city}.",
    "Casola turns speech into text.",
    "Casola reads {number} {things} for {name}.",
)
GERMAN_FRAMES = (
    ("Guten Morgen, {name}.", "Good morning, {name}."),
    ("Guten Abend, {name}.", "Good evening, {name}."),
    ("Vielen Dank, {name}.", "Thank you very much, {name}."),
    ("Hallo, willkommen bei Casola!", "Hello, welcome to Casola!"),
    ("Mein Name ist {name}.", "My name is {name}."),
    ("Das {colour} {thing} ist {place}.", "The {colour} {thing} is {place}."),
    ("Das {size} {thing} ist {place}.", "The {size} {thing} is {place}."),
    ("{name} hat {number} {things}.", "{name} has {number} {things}."),
    ("Wir brauchen {number} {things}.", "We need {number} {things}."),
    ("Der Zug nach {city} fährt um {hour}.", "The train to {city} leaves at {hour}."),
    ("Wir treffen {name} am {day} um {hour}.", "We meet {name} on {day} at {hour}."),
    ("Das Wetter in {city} ist {time} {weather}.", "The weather in {city} is {weather} {time}."),
    ("Ich möchte eine Tasse {drink}, bitte.", "I would like a cup of {drink}, please."),
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """What is spoken, in which language, and what it means in English."""

    text: str
    language: str
    english: str


class Sentences:
    """Draws sentences; with `held_out` only such as training never sees."""

    def __init__(self, seed: int, *, held_out: bool = False) -> None:
        """Equal seeds draw equal sentences."""
        self.draw = random.Random(seed)
        self._held_out = held_out

    def english(self) -> Sentence:
        """One English sentence."""
        while True:
            frame = self.draw.choice(FRAMES)
            text, _ = self._filled(frame, frame)
            if self._fits(frame, text):
                return Sentence(text, ENGLISH, text)

    def german(self) -> Sentence:
        """One German sentence with its translation."""
        while True:
            frame, meaning = self.draw.choice(GERMAN_FRAMES)
            english, text = self._filled(meaning, frame)
            if self._fits(frame, text):
                return Sentence(text, GERMAN, english)

    def row(self) -> Sentence:
        """English words in no order, so that words are heard and not only guessed."""
        while True:
            words = [self._word(self.draw.choice(list(WORDS)))[0] for _ in range(self.draw.randint(1, 5))]  # fmt: skip
            text = " ".join(words)
            text = text[0].upper() + text[1:] + "."
            if self._fits("{a} {b}", text):
                return Sentence(text, ENGLISH, text)

    def any(self) -> Sentence:
        """One in the mixture of training."""
        kind = self.draw.random()
        if kind < 0.25:
            return self.german()
        return self.row() if kind < 0.35 else self.english()

    def _fits(self, frame: str, text: str) -> bool:
        """What has one slot or none is for both sides: there is too little of it."""
        if frame.count("{") < 2:
            return not self._held_out
        return is_held_out(text) == self._held_out

    def _word(self, slot: str) -> tuple[str, str]:
        english, _, german = self.draw.choice(WORDS[slot]).partition("|")
        return english, german or english

    def _filled(self, english: str, german: str) -> tuple[str, str]:
        """Both frames with the same words."""
        chosen = [(slot, *self._word(slot)) for slot in _SLOT.findall(english)]
        for slot, one, two in chosen:
            english = english.replace("{" + slot + "}", one, 1)
            german = german.replace("{" + slot + "}", two, 1)
        return english, german


def is_held_out(text: str) -> bool:
    """Whether training must not see this text."""
    return zlib.crc32(text.encode()) % HELD_OUT == 0


def plain_words(text: str) -> list[str]:
    """Words without case and punctuation, as errors are counted."""
    return re.findall(r"[^\W_]+", text.lower())


def word_errors(wanted: str, found: str) -> tuple[int, int]:
    """Words that must be changed, added or taken away, and how many there were."""
    left, right = plain_words(wanted), plain_words(found)
    row = list(range(len(right) + 1))
    for at, word in enumerate(left, 1):
        previous, row[0] = row[0], at
        for to, other in enumerate(right, 1):
            previous, row[to] = (
                row[to],
                min(row[to] + 1, row[to - 1] + 1, previous + (word != other)),
            )
    return row[-1], len(left)
