"""The voices that speech models have: which there are, and what makes each its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Voice:
    """One voice; `id` is what requests name.

    For espeak-ng `base` is its language, `variant` the shape of its throat, `pitch` and `range`
    (0-99) how high and how lively. For neural models `speaker` is the row of the speaker table and
    `shift` how many semitones the sound is moved.
    """

    id: str
    name: str
    language: str
    base: str = ""
    variant: str = ""
    pitch: int = 50
    range: int = 50
    speaker: int = 0
    shift: float = 0.0


# OpenAI's names: language, base, variant, pitch, range, shift.
NAMED: dict[str, tuple[str, str, str, int, int, float]] = {
    "alloy": ("en-US", "en-us", "", 50, 50, 0.0),
    "ash": ("en-US", "en-us", "m3", 34, 45, -2.0),
    "ballad": ("en-GB", "gmw/en", "m7", 58, 80, 1.0),
    "cedar": ("en-US", "en-us", "m2", 16, 40, -4.0),
    "coral": ("en-US", "en-us", "f2", 62, 65, 4.0),
    "echo": ("en-US", "en-us", "Michael", 42, 50, -1.0),
    "fable": ("en-GB", "gmw/en", "m5", 72, 85, 2.0),
    "marin": ("en-US", "en-us", "f4", 50, 55, 3.0),
    "nova": ("en-US", "en-us", "f3", 66, 60, 6.0),
    "onyx": ("en-US", "en-us", "m8", 4, 35, -6.0),
    "sage": ("en-GB", "gmw/en", "f5", 36, 50, 2.5),
    "shimmer": ("en-US", "en-us", "f1", 92, 60, 7.0),
    "verse": ("en-GB", "en-gb-scotland", "m4", 48, 70, -3.0),
}
# What else espeak-ng speaks well: language tag -> its own name of it, the name in English.
LANGUAGES: dict[str, tuple[str, str]] = {
    "en-US": ("en-us", "English (America)"),
    "en-GB": ("gmw/en", "English (Great Britain)"),
    "ar": ("ar", "Arabic"),
    "bg": ("bg", "Bulgarian"),
    "ca": ("ca", "Catalan"),
    "cs": ("cs", "Czech"),
    "cy": ("cy", "Welsh"),
    "da": ("da", "Danish"),
    "de": ("de", "German"),
    "el": ("el", "Greek"),
    "es": ("es", "Spanish"),
    "es-419": ("es-419", "Spanish (Latin America)"),
    "et": ("et", "Estonian"),
    "fi": ("fi", "Finnish"),
    "fr": ("roa/fr", "French"),
    "hi": ("hi", "Hindi"),
    "hr": ("hr", "Croatian"),
    "hu": ("hu", "Hungarian"),
    "id": ("id", "Indonesian"),
    "it": ("it", "Italian"),
    "ko": ("ko", "Korean"),
    "nb": ("nb", "Norwegian"),
    "nl": ("nl", "Dutch"),
    "pl": ("pl", "Polish"),
    "pt-BR": ("pt-br", "Portuguese (Brazil)"),
    "pt-PT": ("pt", "Portuguese (Portugal)"),
    "ro": ("ro", "Romanian"),
    "ru": ("ru", "Russian"),
    "sk": ("sk", "Slovak"),
    "sv": ("sv", "Swedish"),
    "tr": ("tr", "Turkish"),
    "uk": ("uk", "Ukrainian"),
    "vi": ("vi", "Vietnamese"),
    "zh": ("cmn", "Chinese (Mandarin)"),
}
ALSO_CALLED = {"en": "en-US", "pt": "pt-BR"}
_BY_LOWER = {code.lower(): code for code in LANGUAGES} | ALSO_CALLED
# Spoken in previews, in the voice's own language where it is here.
PREVIEWS = {
    "en": "Hello! This is how I sound.",
    "de": "Hallo! So klinge ich.",
    "es": "¡Hola! Así es como sueno.",
    "fr": "Bonjour ! Voici ma voix.",
    "it": "Ciao! Questa è la mia voce.",
    "nl": "Hallo! Zo klink ik.",
    "pl": "Cześć! Tak brzmi mój głos.",
    "pt": "Olá! Esta é a minha voz.",
    "ru": "Привет! Так звучит мой голос.",
    "sv": "Hej! Så här låter jag.",
    "tr": "Merhaba! Sesim böyle.",
    "uk": "Привіт! Так звучить мій голос.",
    "zh": "你好!这是我的声音。",
}


def preview_text(voice: Voice) -> str:
    """What a voice says of itself."""
    return PREVIEWS.get(voice.language.partition("-")[0].lower(), "1, 2, 3.")


def language_of(text: str) -> str | None:
    """The tag of LANGUAGES that a caller means (`EN`, `pt-br`, `de-AT`), or None."""
    lower = text.strip().lower().replace("_", "-")
    return _BY_LOWER.get(lower) or _BY_LOWER.get(lower.partition("-")[0])


def espeak_voices() -> tuple[Voice, ...]:
    """OpenAI's names, then a man's and a woman's voice for each language."""
    named = [
        Voice(name, name.capitalize(), language, base, variant, pitch, lively)
        for name, (language, base, variant, pitch, lively, _) in NAMED.items()
    ]
    other = [
        Voice(f"{code.lower()}-{sex}", f"{name}, {sex}", code, base, variant, pitch)
        for code, (base, name) in LANGUAGES.items()
        for sex, variant, pitch in (("male", "m3", 45), ("female", "f2", 60))
    ]
    return (*named, *other)


def neural_voices(*, speakers: int, language: str) -> tuple[Voice, ...]:
    """OpenAI's names over the model's speakers, then the speakers themselves."""
    named = [
        Voice(name, name.capitalize(), language, speaker=index % speakers, shift=shift)
        for index, (name, (_, _, _, _, _, shift)) in enumerate(NAMED.items())
    ]
    other = [
        Voice(f"speaker-{number}", f"Speaker {number}", language, speaker=number)
        for number in range(speakers)
    ]
    return (*named, *other)
