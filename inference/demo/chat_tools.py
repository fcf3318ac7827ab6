"""Tool calls and their answers for the chat demo data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from inference.demo import chat_words as words
from inference.demo.chat_draw import Draw, Message, Sample
from inference.demo.chat_tasks import ask, assistant, user


@dataclass(slots=True)
class Case:
    """One tool with one use of it: the call, its result, and the answer from the result."""

    tool: dict[str, Any]
    request: str
    arguments: dict[str, Any]
    result: dict[str, Any]
    answer: str


def tool(name: str, text: str, /, **parameters: str) -> dict[str, Any]:
    """A tool in the form that chat APIs take."""
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "type": "function",
        "function": {"name": name, "description": text, "parameters": schema},
    }


SKIES = ["sunny", "rainy", "cloudy", "windy", "foggy", "snowy", "clear", "stormy"]
WEATHER = [
    "What is the weather in {c}?", "What's the weather like in {c}?", "How is the weather in {c}?", "Weather in {c}?", "Tell me the weather in {c}", "weather {c}", "Is it warm in {c}?", "What is the weather in {c} today?", "How warm is it in {c}?", "Give me the weather for {c}", "Do I need a coat in {c}?", "What is the temperature in {c}?", "Check the weather in {c}",
]  # fmt: skip


def weather(d: Draw) -> Case:
    """The weather of a city."""
    city, degrees, sky = words.city(d), d.number(-9, 39), d.of(SKIES)
    key = d.of(["city", "city", "location"])
    name = d.of(["get_weather", "get_weather", "weather", "get_current_weather"])
    temperature = d.of(["temperature", "temp", "degrees", "temperature_c"])
    made = tool(
        name,
        d.of(
            [
                "Get the weather of a city",
                "Current weather",
                "Get the current weather in a given location",
                "Look up the weather",
                "",
            ]
        ),
        **{key: "string"},
    )
    result = {temperature: degrees, d.of(["condition", "sky", "weather"]): sky}
    return Case(
        made,
        ask(d, WEATHER, c=city),
        {key: city},
        result,
        f"It is {degrees} degrees and {sky} in {city}.",
    )


def clock(d: Draw) -> Case:
    """The time in a city."""
    city, time = words.city(d), f"{d.number(0, 23):02d}:{d.number(0, 59):02d}"
    key = d.of(["city", "timezone", "location"])
    made = tool(
        d.of(["get_time", "current_time", "get_local_time"]),
        d.of(["Get the time in a city", "Local time", ""]),
        **{key: "string"},
    )
    asks = ["What time is it in {c}?", "What is the time in {c}?", "Tell me the time in {c}", "How late is it in {c}?", "Time in {c}?", "Give me the local time in {c}", "time in {c} now"]  # fmt: skip
    return Case(made, ask(d, asks, c=city), {key: city}, {"time": time}, f"It is {time} in {city}.")


def reckon(d: Draw) -> Case:
    """A sum for a calculator."""
    a, b, sign = d.number(10, 999), d.number(10, 999), d.of("+-*")
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    text = f"{a} {sign} {b}"
    made = tool(
        d.of(["calculate", "calculator"]),
        d.of(["Compute an expression", "Evaluate a sum", ""]),
        expression="string",
    )
    asks = [
        "What is {x}?",
        "Calculate {x}",
        "How much is {x}?",
        "Compute {x}",
        "{x} = ?",
        "What's {x}?",
    ]
    return Case(
        made, ask(d, asks, x=text), {"expression": text}, {"result": value}, f"{text} = {value}"
    )


def remind(d: Draw) -> Case:
    """A reminder at an hour."""
    what, time = (
        f"{d.of(['call', 'meet', 'visit', 'pay'])} {words.name(d)}",
        f"{d.number(1, 12)} {d.of(['am', 'pm'])}",
    )
    made = tool(
        d.of(["set_reminder", "create_reminder"]),
        d.of(["Set a reminder", "Remind the user", ""]),
        text="string",
        time="string",
    )
    asks = ["Remind me to {w} at {t}", "Set a reminder to {w} at {t}", "At {t}, remind me to {w}", "I must {w} at {t}, remind me", "Create a reminder for {t}: {w}", "Please remind me at {t} to {w}"]  # fmt: skip
    return Case(
        made,
        ask(d, asks, w=what, t=time),
        {"text": what, "time": time},
        {"ok": True},
        f"Done: I will remind you to {what} at {time}.",
    )


def mail(d: Draw) -> Case:
    """A mail to an address."""
    to, text = words.email(d), " ".join(words.word(d) for _ in range(d.number(1, 4)))
    made = tool(
        d.of(["send_email", "send_mail"]),
        d.of(["Send an email", "Send a mail to someone", ""]),
        to="string",
        text="string",
    )
    asks = ["Send an email to {m} that says {t}", "Email {m}: {t}", "Write to {m}: {t}", "Send {m} the text {t}", "Send the message {t} to {m}", "Mail {t} to {m}"]  # fmt: skip
    return Case(
        made,
        ask(d, asks, m=to, t=text),
        {"to": to, "text": text},
        {"ok": True},
        f"Done: I sent the email to {to}.",
    )


def search(d: Draw) -> Case:
    """A search for a few words."""
    query = " ".join(words.word(d) for _ in range(d.number(1, 3)))
    found = f"{words.word(d)} {words.word(d)} {words.word(d)}"
    key = d.of(["query", "q", "query"])
    made = tool(
        d.of(["search", "web_search", "search_docs"]),
        d.of(["Search the web", "Search documents", "Find pages", ""]),
        **{key: "string"},
    )
    asks = ["Search for {x}", "Find pages about {x}", "Look up {x}", "Search the web for {x}", "Google {x}", "Can you search for {x}?", "Find {x} on the web"]  # fmt: skip
    return Case(made, ask(d, asks, x=query), {key: query}, {"result": found}, f"I found: {found}.")


def lookup(d: Draw) -> Case:
    """Any quality of any thing: the tool is made up."""
    quality, thing = words.noun(d), words.person(d) if d.chance(0.5) else one(d)
    value: Any = d.number(1, 9999) if d.chance(0.5) else words.word(d)
    key = d.of(["name", "id", "item", "key", "user", "code", "title", words.noun(d)])
    verb = d.of(["get", "get", "find", "lookup", "fetch", "read"])
    made = tool(
        f"{verb}_{quality}",
        d.of(
            [f"Get the {quality} of something", f"Find a {quality}", f"The {quality} by {key}", ""]
        ),
        **{key: "string"},
    )
    asks = ["What is the {q} of {x}?", "Tell me the {q} of {x}", "Get the {q} of {x}", "Give me the {q} for {x}", "Which {q} does {x} have?", "Find the {q} of {x}", "I need the {q} of {x}", "{q} of {x}?", "Look up the {q} of {x}"]  # fmt: skip
    return Case(
        made,
        ask(d, asks, q=quality, x=thing),
        {key: str(thing)},
        {d.of([quality, quality, "value", "result"]): value},
        f"The {quality} of {thing} is {value}.",
    )


def act(d: Draw) -> Case:
    """Switch a thing on or off."""
    thing, state = words.noun(d), d.of(["on", "off"])
    made = tool(
        d.of(["switch", "set_device", "control_device"]),
        d.of(["Switch a device", "Turn something on or off", ""]),
        device="string",
        state="string",
    )
    asks = ["Turn {s} the {x}", "Switch {s} the {x}", "Turn the {x} {s}", "Please switch the {x} {s}", "Set the {x} to {s}", "I want the {x} {s}"]  # fmt: skip
    return Case(
        made,
        ask(d, asks, s=state, x=thing),
        {"device": thing, "state": state},
        {"ok": True},
        f"Done: the {thing} is {state}.",
    )


def convert(d: Draw) -> Case:
    """Money into another currency."""
    amount, value = d.number(1, 900), d.number(1, 9000)
    a, b = d.rng.sample(["USD", "EUR", "GBP", "JPY", "CHF", "SEK", "INR"], 2)
    made = tool(
        d.of(["convert_currency", "exchange"]),
        d.of(["Convert money", "Exchange rates", ""]),
        amount="number",
        source="string",
        target="string",
    )
    asks = ["Convert {n} {a} to {b}", "How much is {n} {a} in {b}?", "What is {n} {a} in {b}?", "Change {n} {a} into {b}", "{n} {a} in {b}", "Exchange {n} {a} to {b}"]  # fmt: skip
    return Case(
        made,
        ask(d, asks, n=amount, a=a, b=b),
        {"amount": amount, "source": a, "target": b},
        {"result": value},
        f"{amount} {a} is {value} {b}.",
    )


CASES = [
    weather,
    weather,
    weather,
    lookup,
    lookup,
    lookup,
    lookup,
    clock,
    reckon,
    remind,
    mail,
    search,
    act,
    convert,
]


def one(d: Draw) -> str:
    """An id-like thing."""
    return d.of(
        [
            words.word(d),
            f"{d.number(1, 9999)}",
            f"{d.of('abcdxyz')}{d.number(1, 999)}",
            words.city(d),
        ]
    )


def call(d: Draw, case: Case) -> Message:
    """The assistant's call of a tool, in the form that chat APIs use."""
    arguments: Any = case.arguments if d.chance(0.5) else json.dumps(case.arguments)
    function = {"name": case.tool["function"]["name"], "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": f"call_{d.number(1, 9999)}", "type": "function", "function": function}]}  # fmt: skip


def result(d: Draw, case: Case) -> Message:
    """The tool's answer."""
    separators = None if d.chance(0.6) else (",", ":")
    return {"role": "tool", "content": json.dumps(case.result, separators=separators)}


def offered(d: Draw, *used: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools used among others."""
    tools = {item["function"]["name"]: item for item in used}
    for _ in range(d.of([0, 0, 1, 1, 2, 3])):
        other = d.of(CASES)(d).tool
        taken = any(
            other["function"]["name"].split("_")[-1] == name.split("_")[-1] for name in tools
        )
        if not taken and not (len(tools) == len(used) and _alike(other, used)):
            tools.setdefault(other["function"]["name"], other)
    listed = list(tools.values())
    d.rng.shuffle(listed)
    return listed


def _alike(other: dict[str, Any], used: tuple[dict[str, Any], ...]) -> bool:
    """True for tools which serve the same purpose under other names."""
    purpose = other["function"]["description"][:8]
    return any(item["function"]["description"][:8] == purpose and purpose for item in used)


def single(d: Draw) -> Sample:
    """One call, or one call and its answer."""
    case = d.of(CASES)(d)
    tools = offered(d, case.tool)
    messages = [user(case.request), call(d, case)]
    if d.chance(0.45):
        return Sample("tool_call", messages, tools)
    return Sample("tool_answer", [*messages, result(d, case), assistant(case.answer)], tools)


BOTH = [
    "{a} and {b}",
    "{a} And {b}",
    "{a}, then {b}",
    "{a} Also: {b}",
    "First {a} Then {b}",
    "{a} After that, {b}",
]
TWO_CITIES = ["What is the weather in {a} and in {b}?", "Compare the weather in {a} and {b}", "Weather in {a} and {b}?", "Is it warmer in {a} or in {b}?", "Tell me the weather in {a} and {b}", "How is the weather in {a} and in {b}?"]  # fmt: skip


def double(d: Draw) -> Sample:
    """Two calls, one after the other."""
    first, second = weather(d), weather(d)
    if d.chance(0.4):
        key = next(iter(first.arguments))
        second.tool, second.arguments = first.tool, {key: next(iter(second.arguments.values()))}
        request = ask(d, TWO_CITIES, a=first.arguments[key], b=second.arguments[key])
    elif d.chance(0.5):
        first, second = _find_and_mail(d)
        request = first.request
    else:
        first, second = lookup(d), d.of([weather, clock, remind, mail, lookup])(d)
        request = d.phrase(BOTH, a=first.request, b=second.request[:1].lower() + second.request[1:])
    tools = offered(d, first.tool, second.tool)
    messages = [user(request), call(d, first), result(d, first), call(d, second)]
    if d.chance(0.4):
        return Sample("tool_two", messages, tools)
    closing = second.answer if first.answer == "" else f"{first.answer} {second.answer}"
    return Sample("tool_two", [*messages, result(d, second), assistant(closing)], tools)


def _find_and_mail(d: Draw) -> tuple[Case, Case]:
    """Look an address up, then write to it."""
    who, text, to = (
        words.person(d),
        " ".join(words.word(d) for _ in range(d.number(1, 3))),
        words.email(d),
    )
    finder = tool(
        d.of(["find_customer", "get_user", "find_contact"]),
        d.of(["Find a person", "Look up a contact", ""]),
        name="string",
    )
    sender = mail(d).tool
    asks = ["Find {p} and send the message {t}", "Look up {p} and email: {t}", "Find the address of {p} and write: {t}", "Send {t} to {p}, look up the address first", "Get the email of {p} and send {t}", "Look up {p}, then send {t}"]  # fmt: skip
    request = ask(d, asks, p=who, t=text)
    found = Case(finder, request, {"name": who}, {"email": to}, "")
    return found, Case(
        sender, request, {"to": to, "text": text}, {"ok": True}, f"Done: I sent the email to {to}."
    )
