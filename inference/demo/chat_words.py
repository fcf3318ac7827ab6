"""Names and words of the chat demo data."""

# ruff: noqa: SIM905 (word lists read better as text)
from __future__ import annotations

from inference.demo.chat_draw import Draw

FIRST = (
    "Ada Adam Aisha Alan Albert Alice Amara Amir Amy Ana Andre Anna Anton Aria Arun Ben Bella Bob "
    "Boris Bruno Carla Carlos Carmen Cem Chen Chloe Clara Daisy Dan Daniel David Dana Diego Dora "
    "Ed Elena Eli Ella Emil Emma Erik Eva Fatima Felix Fiona Frank Fred Gina Grace Greta Hana Hans "
    "Hassan Helen Henry Hugo Ida Ines Ingrid Ivan Ivy Jack Jake James Jamal Jane Jasmine Jo Joe John "
    "Jonas Julia Jun Karim Karl Kate Kenji Kim Klara Lars Laura Lea Leo Lena Liam Lily Linda Lisa "
    "Louis Lucas Lucy Luis Luna Maria Mark Marta Mary Max Maya Mei Mia Mike Milan Mina Mohamed Nadia "
    "Naomi Nat Nick Nina Noah Nora Olga Oliver Olivia Omar Oscar Otto Paul Pedro Peter Petra Philip "
    "Priya Rachel Raj Ravi Rita Rob Robin Rosa Ruth Sam Samir Sara Sasha Simon Sofia Sven Tara Ted "
    "Theo Tim Tom Tina Uma Vera Victor Vikram Walter Wendy Yara Yuki Yusuf Zara Zoe"
).split()
LAST = (
    "Adams Ahmed Baker Bauer Becker Berg Bianchi Brown Carter Chan Clark Costa Cruz Davis Diaz "
    "Dubois Evans Fischer Fox Garcia Gomez Green Gupta Hall Hansen Hill Hoffmann Ito Jones Khan "
    "Kim King Klein Kowalski Larsen Lee Lewis Lopez Martin Meyer Miller Moore Moreau Nguyen Novak "
    "Okafor Park Patel Perez Reed Rossi Sato Schmidt Scott Silva Singh Smith Stone Tanaka Taylor "
    "Torres Turner Walker Wang Weber White Wilson Wood Wright Young"
).split()
CITIES = (
    "Amsterdam Athens Atlanta Austin Bangkok Barcelona Basel Beijing Bergen Berlin Bogota Boston "
    "Brussels Budapest Cairo Chicago Cologne Copenhagen Dakar Dallas Delhi Denver Dubai Dublin "
    "Edinburgh Florence Geneva Hamburg Hanoi Helsinki Houston Istanbul Jakarta Kyiv Kyoto Lagos Leeds "
    "Lima Lisbon London Lyon Madrid Manila Marseille Melbourne Miami Milan Montreal Moscow Mumbai "
    "Munich Nairobi Naples Osaka Oslo Oxford Paris Perth Porto Prague Quito Riga Rome Seattle Seoul "
    "Seville Sofia Stockholm Sydney Tallinn Tokyo Toronto Turin Utrecht Valencia Venice Vienna Vilnius "
    "Warsaw Zagreb Zurich"
).split()
NOUNS = (
    "apple anchor arrow bag ball banana barrel basket bell bench bicycle bird blanket boat bottle "
    "bowl box brick bridge broom bucket button cabin cake camera candle car carpet castle cat chair "
    "cheese cherry clock cloud coat coffee coin cookie crown cup curtain desk diamond dog door "
    "dragon drum eagle engine feather fence fish flag flower forest fork fox frog garden ghost glass "
    "glove goat guitar hammer harbor hat hill honey horse house island jacket jar jungle kettle key "
    "kite kitten ladder lake lamp leaf lemon letter lighthouse lion map market mask melon mirror "
    "monkey moon motor mountain mouse muffin needle nest notebook ocean onion orange owl paint panda "
    "paper parrot peach pear pen pencil penguin piano pillow pirate planet plate pocket pony potato "
    "puppet puzzle rabbit radio rain ribbon ring river robot rocket rope rose saddle sail salad sand "
    "scarf school ship shoe shovel silk sky snake snow sofa spider spoon star stone storm street "
    "sugar sun table tea tent tiger tower train tree truck tulip turtle umbrella valley violin wagon "
    "wall watch whale wheel window wolf zebra"
).split()
COLOURS = "red blue green yellow black white purple orange brown pink gray silver gold".split()
ANIMALS = (
    "cat dog horse rabbit parrot hamster turtle pony goat sheep goose duck fox owl lizard llama "
    "donkey pig hen kitten puppy mouse snake frog"
).split()
JOBS = (
    "baker doctor teacher nurse pilot farmer painter plumber lawyer engineer cook driver writer "
    "singer gardener dentist carpenter librarian chemist tailor waiter designer programmer editor "
    "mechanic sailor"
).split()
HOBBIES = (
    "chess swimming painting cycling cooking reading dancing hiking fishing singing knitting tennis "
    "running photography gardening football yoga climbing drawing surfing"
).split()
FOODS = (
    "pizza soup bread pasta salad rice curry pancakes noodles cake pie tacos sushi stew waffles "
    "dumplings porridge omelette burgers cookies"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)
SUBJECTS = (
    "sunset over the {n}|{n} on a hill|{c} {n}|{a} in the snow|{a} with a {c} hat|old {n}|small {n} "
    "by the sea|{a} in space|castle at night|city street in the rain|lonely {n} in a field|portrait "
    "of a {j}|{j} with a {n}|{n} made of {n}|forest in the fog|{c} {a} and a {n}|bowl of {n}|"
    "{a} riding a {n}|mountain lake at dawn|robot holding a {n}|bird over the ocean|train in winter|"
    "{c} {n} on a table|market full of {n}|house with a {c} door|{w}|{c} {w}|{w} near a {n}|{a} named {w}"
).split("|")
DOMAINS = ["example.com", "mail.com", "demo.org", "casola.ai", "test.net", "shop.io"]


def name(d: Draw) -> str:
    """A first name, sometimes an invented one."""
    return d.invented().capitalize() if d.chance(0.35) else d.pick(FIRST)


def full_name(d: Draw) -> str:
    """First and last name."""
    last = d.invented(2).capitalize() if d.chance(0.3) else d.pick(LAST)
    return f"{name(d)} {last}"


def person(d: Draw) -> str:
    """A name with or without a last name."""
    return full_name(d) if d.chance(0.4) else name(d)


def city(d: Draw) -> str:
    """A city, sometimes an invented one."""
    return d.invented(2).capitalize() if d.chance(0.3) else d.pick(CITIES)


def noun(d: Draw) -> str:
    """A thing, sometimes an invented one."""
    return d.invented() if d.chance(0.2) else d.pick(NOUNS)


def word(d: Draw) -> str:
    """Any single word, often invented."""
    return d.invented() if d.chance(0.5) else d.pick(NOUNS)


def email(d: Draw) -> str:
    """An e-mail address."""
    return f"{name(d).lower()}@{d.of(DOMAINS) if d.chance(0.6) else d.invented() + '.com'}"


def day(d: Draw) -> str:
    """A day of the week."""
    return d.of(DAYS)


def subject(d: Draw) -> str:
    """A picture subject such as an image prompt has."""
    text = d.fill(d.of(SUBJECTS))
    for key, value in (("{n}", noun), ("{w}", word)):
        while key in text:
            text = text.replace(key, value(d), 1)
    text = text.replace("{c}", d.of(COLOURS)).replace("{a}", d.pick(ANIMALS))
    text = text.replace("{j}", d.pick(JOBS))
    article = "" if d.chance(0.25) else ("an " if text[0] in "aeiou" else "a ")
    return article + text
