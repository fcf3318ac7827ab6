"""Small made-up texts with known facts, for passages, summaries and extraction."""

# ruff: noqa: SIM905 (word lists read better as text)
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inference.demo import chat_words as words
from inference.demo.chat_draw import Draw

Maker = Callable[[Draw], Any]


@dataclass(slots=True)
class Attribute:
    """One fact of a record: how its value is made, said, and asked for."""

    key: str
    make: Maker
    says: list[str]
    asks: list[str]


@dataclass(slots=True)
class Schema:
    """A kind of text: the head sentence names the subject and holds the main fact."""

    kind: str
    subject: str
    make: Maker
    head: list[str]
    summary: str
    attributes: list[Attribute] = field(default_factory=list)


def _number(low: int, high: int) -> Maker:
    return lambda d: d.number(low, high)


def _of(items: list[str]) -> Maker:
    return lambda d: d.pick(items)


def _proper(d: Draw) -> str:
    """A made-up proper name."""
    return d.invented(2).capitalize()


def _title(d: Draw) -> str:
    """A book or event title."""
    return (
        f"{d.of(['The', 'The', 'My', 'Little', 'Silent', 'Golden'])} {words.noun(d).capitalize()}"
    )


def _place(d: Draw) -> str:
    """The name of a shop."""
    return f"{d.of(['Cafe', 'Bar', 'Hotel', 'Studio', 'Bakery'])} {_proper(d)}"


def _time(d: Draw) -> str:
    return f"{d.number(1, 12)} {d.of(['am', 'pm'])}"


def _date(d: Draw) -> str:
    return f"{d.of(words.MONTHS)} {d.number(1, 28)}"


def _phone(d: Draw) -> str:
    return f"{d.number(100, 999)}-{d.number(1000, 9999)}"


A = Attribute
LEADS = ["By the way, ", "As far as we know, ", "I heard that ", "They say that ", "It is true that ", "Note that ", "Also, ", "In short, "]  # fmt: skip


def _ask(what: str, *more: str) -> list[str]:
    """Questions for `what`, which names the fact."""
    return [f"[What is|What's|Tell me|Give me|Do you know|Name] the {what} of {{s}}?", f"What is {{s}}'s {what}?", f"Which {what} [does {{s}} have|is named|belongs to {{s}}|is given for {{s}}]?", f"[Find|State|Say|I need] the {what} of {{s}}", *more]  # fmt: skip


def _says(what: str, *more: str) -> list[str]:
    """Sentences which state the fact `what`."""
    return [f"The {what} [is|of {{s}} is|here is|we know is|given is] {{v}}.", f"[{what.capitalize()}|The {what}|Known {what}]: {{v}}.", f"{{v}} is [the {what}|the {what} of {{s}}|its {what}|the given {what}].", f"{{s}} has [the {what}|a {what} of|as {what}] {{v}}.", *more]  # fmt: skip


CITY = A("city", words.city, _says("city", "{s} [lives|works|stays|resides|now lives|has lived] in {v}.", "{s} [is|comes|moved here|arrived] from {v}.", "The [home|house|home town|flat] of {s} is [in|near] {v}.", "{s} moved to {v} [last year|in spring|years ago|]."),
    _ask("city", "Where does {s} [live|come from|stay|reside]?", "In [which|what] [city|town|place] [does {s} live|is the home of {s}]?", "[What|Which] city does {s} [live in|come from]?"))  # fmt: skip
SCHEMAS = [
    Schema("person", "name", words.person, ["{s} is {v} [years old|years of age|years old now|years old today].", "{s} [turned|became|will be|just turned] {v} [this year|last week|in May|].", "{s}, [{v}|aged {v}|age {v}|{v} years old], is a [friend|neighbor|cousin|colleague] of mine.", "[Meet|This is|Here is|I know] {s}, [age|aged|who is] {v}.", "{s} has the age of {v}.", "The age of {s} is {v}."], "{s} is {v} years old.", [
        A("age", _number(18, 90), [], _ask("age", "How old is {s}?", "How old is {s} [now|today|in the text|]?", "How many years old is {s}?")),
        CITY,
        A("job", _of(words.JOBS), _says("job", "{s} [works|earns money|is employed|has a job|is known] as a {v}.", "{s} is a {v} [by trade|by day|at a small firm|]."), _ask("job", "What does {s} [work as|do for a living|do|do for work]?")),
        A("hobby", _of(words.HOBBIES), _says("hobby", "{s} [likes|loves|enjoys|adores|is fond of] {v}.", "[In the evening|At the weekend|After work|Every day] {s} enjoys {v}."), _ask("hobby", "What does {s} [like|love|enjoy|like to do|do for fun]?")),
        A("email", words.email, _says("email", "[You can write to|Send mail to|Write to|Mail goes to] {v}.", "{s} [uses|reads mail at|has the address|can be mailed at] {v}."), _ask("email", "What is {s}'s email address?", "How can I [mail|email|write to] {s}?")),
        A("phone", _phone, _says("phone number", "[Call|Dial|Ring|Just call] {v}.", "{s} [can be reached at|answers at|has the number|uses the number] {v}."), _ask("phone number", "How can I [call|phone|ring] {s}?", "Which number [should I call|should I dial|reaches {s}]?")),
    ]),
    Schema("shop", "place", _place, ["{v} [opened|runs|owns|founded|started|manages] {s}.", "{s} [was opened|is run|was founded|is owned|is managed] by {v}.", "{s} belongs to {v} [now|today|].", "The [owner|founder|boss|keeper] of {s} is {v}."], "{v} owns {s}.", [
        A("owner", words.person, [], _ask("owner", "Who [owns|runs|has|keeps|opened] {s}?", "To whom does {s} belong?")),
        A("city", words.city, _says("city", "It [is|lies|stands|can be found|is located] in [the middle of|] {v}.", "You [find it|will find it|can visit it] in {v}.", "The place is in {v}."), _ask("city", "Where [is|do I find|can I find|lies] {s}?", "In [which|what] [city|town] [is|lies] {s}?")),
        A("year", _number(1850, 2024), _says("year", "It [opened|started|began|was founded|was built] in {v}.", "It [has been there|exists|has existed] since {v}.", "The doors opened in {v}."), _ask("year", "When did {s} [open|start|begin]?", "In [which|what] year did {s} [open|start]?", "Since when does {s} exist?")),
        A("product", _of(words.FOODS), _says("product", "It [is known for its|sells|offers|is loved for its|makes|serves] {v}.", "[People come for the|Try the|Everybody buys the|The best thing is the] {v}."), _ask("product", "What does {s} [sell|offer|serve|make]?", "What is {s} known for?", "What can I [buy|get|eat] at {s}?")),
    ]),
    Schema("order", "order_id", _number(1000, 9999), ["{v} [placed|made|sent|gave us|submitted] order {s}.", "Order {s} [is|came|comes|arrived] from {v}.", "Order {s} was [placed|made|sent|submitted] by {v}.", "We [got|received|have] order {s} from {v}.", "The customer of order {s} is {v}."], "{v} placed order {s}.", [
        A("customer", words.person, [], ["Who [placed|made|sent|submitted] order {s}?", "[Who|Tell me who|Which person] is the customer of order {s}?", "Whose order is {s}?", "[Which|What] customer [has|placed] order {s}?"]),
        A("item", words.noun, _says("item", "It is for [a|one|the] {v}.", "[The customer wants|They want|We should send|Please pack] a {v}."), ["What is the item [of order {s}|in order {s}|]?", "What [was ordered|does the customer want|is in order {s}|did they order]?", "Which item is [in order {s}|needed|ordered]?"]),
        A("quantity", _number(1, 50), _says("quantity", "The box holds {v} of them.", "They [need|want|ask for|ordered] {v} [pieces|of them]."), ["What is the quantity [of order {s}|]?", "How many [pieces|items] are [in order {s}|needed|wanted]?", "How many are needed?", "[What|Which] quantity was ordered?"]),
        A("price", _number(2, 900), _says("price", "It costs {v} [dollars|euros|pounds].", "[The total is|They pay|The bill is|They paid] {v} [dollars|euros]."), ["What is the [price|total|price of order {s}|total of order {s}]?", "How much [does it cost|is order {s}|do they pay|is the total]?"]),
        A("city", words.city, _says("city", "[Ship it|It goes|Send it|The delivery is|It is sent] to {v}."), ["Where [does order {s} go|is it shipped|is it sent|should it go]?", "To [which|what] city [is it sent|does it go]?", "What city does order {s} go to?"]),
    ]),
    Schema("event", "event", _title, ["{s} [takes place|is|happens|will be|starts] on {v}.", "The [event|show|party|evening] {s} is on {v}.", "On {v} [we have|there is|you can see|we celebrate] {s}.", "[Join us|Come|Meet us|See you] on {v} for {s}.", "The date of {s} is {v}."], "{s} is on {v}.", [
        A("date", _date, [], _ask("date", "When [is|takes place|happens|will be] {s}?", "On [which|what] [date|day] is {s}?", "When does {s} take place?")),
        A("time", _time, _says("time", "It [starts|begins|opens|kicks off] at {v}.", "[The start is|Doors open|Be there|Come] at {v}."), _ask("time", "At what time does it [start|begin]?", "What time does {s} [start|begin|open]?")),
        A("city", words.city, _says("city", "It [is held|takes place|happens|will be] in {v}.", "[We meet in|Come to|The place is|We see you in] {v}."), _ask("city", "Where [is|happens|will be] {s}?", "In [which|what] [city|town] is {s}?", "[Which|What] city hosts {s}?")),
        A("host", words.person, _says("host", "It is [hosted|led|organized|run] by {v}.", "{v} [leads|hosts|opens|runs] the evening.", "{v} will be the host."), _ask("host", "Who is the host?", "Who [hosts|leads|runs|organizes] {s}?")),
    ]),
    Schema("pet", "name", words.name, ["{s} is a [|nice|little|lovely] {v}.", "[We have|I have|They have|My friend has] a {v} [named|called] {s}.", "[Our|My|Their|The] {v} is called {s}.", "The {v} {s} [lives with us|sleeps here|is our pet|is at home]."], "{s} is a {v}.", [
        A("animal", _of(words.ANIMALS), [], ["What [animal|kind of animal|sort of animal|pet] is {s}?", "What is {s}?", "Which [animal|kind of animal|pet] is {s}?"]),
        A("color", _of(words.COLOURS), _says("color", "{s} is [|all|mostly|completely] {v}.", "The fur is {v}.", "{s} [has a|wears a|shows a] {v} coat."), _ask("color", "What [color|colour] is {s}?", "Which [color|colour] [does {s} have|is {s}]?")),
        A("age", _number(1, 19), _says("age", "{s} is {v} [years old|years of age|years old now].", "{s} turned {v} [in spring|this year|in June]."), _ask("age", "How old is {s} [now|today|]?", "What age is {s}?")),
        A("owner", words.person, _says("owner", "{s} belongs to {v}.", "{v} [takes care of|feeds|owns|looks after|walks] {s}."), _ask("owner", "Who [owns|feeds|looks after|takes care of] {s}?", "To whom does {s} belong?")),
    ]),
    Schema("book", "title", _title, ["{v} [wrote|published|is the author of|is the writer of] {s}.", "{s} [was written|was published|is] by {v}.", "{s} is a [book|novel|story|work] by {v}.", "The [author|writer] of {s} is {v}."], "{v} wrote {s}.", [
        A("author", words.person, [], _ask("author", "Who [wrote|published|has written] {s}?", "By whom is {s}?", "Which author wrote {s}?")),
        A("year", _number(1800, 2024), _says("year", "It [came out|was printed|appeared|was published|was sold first] in {v}.", "The book is from {v}."), _ask("year", "When did {s} [come out|appear]?", "In [which|what] year did {s} [appear|come out]?", "From which year is {s}?")),
        A("pages", _number(40, 900), _says("number of pages", "It [has|holds|counts|comes with] {v} pages.", "The book is {v} pages long.", "Readers get {v} pages."), ["How many pages [does {s} have|are there|are in {s}|has {s}]?", "How long is {s}?", "What is the number of pages [of {s}|in {s}|]?"]),
        A("topic", words.noun, _says("topic", "It is [|all|mainly|mostly] about a {v}.", "It [tells of|deals with|speaks of] a {v}.", "The story is about a {v}."), _ask("topic", "What is {s} about?", "What does [{s}|the book] [tell of|deal with]?")),
    ]),
    Schema("town", "name", _proper, ["{s} is a [town|city|village|place] [with|of] {v} people.", "{v} people [live|have a home|are at home] in {s}.", "The [town|city|village] of {s} [has|counts] {v} people.", "In {s} there are {v} people.", "The population of {s} is {v}."], "{s} has {v} people.", [
        A("population", _number(200, 99000), [], _ask("population", "How many people [live in|are in|are there in|have a home in] {s}?", "How big is {s}?", "How many people does {s} have?")),
        A("river", _proper, _says("river", "It [lies|stands|is built|sits] [on|by] the river {v}.", "The river {v} [runs|flows|passes] through it."), _ask("river", "[Which|What] river [runs|flows] through {s}?", "On which river is {s}?")),
        A("mayor", words.person, _says("mayor", "{v} [is|was elected|became|serves as] mayor.", "{v} leads the town as mayor."), _ask("mayor", "Who is the mayor?", "Who [is|was elected] mayor of {s}?", "Who leads {s} [as mayor|]?")),
        A("product", words.noun, _says("product", "[The town is|It is|The place is] [famous|known|loved] for the {v}.", "People visit to see the {v}."), _ask("product", "What is {s} [famous|known|loved] for?", "Why do people visit {s}?")),
    ]),
    Schema("server", "server", lambda d: f"{d.invented()}-{d.number(1, 99)}", ["{s} is [|now|currently|still] {v}.", "The [server|machine|host|node] {s} is {v}.", "[Status|The status|State] of {s}: {v}.", "[Right now|At the moment|Today|Since noon] {s} is {v}.", "The status of {s} is {v}."], "{s} is {v}.", [
        A("status", _of(["online", "offline", "busy", "idle", "broken", "starting", "stopped"]), [], _ask("status", "How is {s} [now|]?", "In what state is {s}?", "What [state|status] is {s} in?")),
        A("memory", _number(1, 512), _says("memory in GB", "It [has|came with|holds|offers] {v} GB of memory.", "Memory: {v} GB.", "The memory is {v} GB."), ["How much memory does {s} have?", "How many GB [does {s} have|are in {s}|has {s}]?", "How big is the memory [of {s}|in {s}|]?", "[What is|Tell me] the memory of {s}"]),
        A("region", _of(["us", "eu", "ap", "north", "south", "west", "east"]), _says("region", "It [runs|stands|is|lives] in [the region|region] {v}."), _ask("region", "In [which|what] region [is|runs] {s}?", "Where does {s} run?")),
        A("admin", words.person, _says("admin", "{v} [looks after|manages|runs|watches] it.", "Ask {v} for [access|help]."), _ask("admin", "Who [looks after|manages|runs|watches] {s}?", "Who is the admin?")),
    ]),
    Schema("trip", "traveler", words.person, ["{s} [travels|is going|flies|wants to go|drives|will travel] to {v}.", "{s} [booked|plans|made|starts] a trip to {v}.", "The [trip|journey|tour] of {s} goes to {v}.", "The destination of {s} is {v}."], "{s} travels to {v}.", [
        A("destination", words.city, [], _ask("destination", "Where [does {s} travel|is {s} going|does {s} go|will {s} go]?", "To [which|what] city does {s} [travel|go]?")),
        A("date", _date, _says("date", "It [starts|begins] on {v}.", "The [trip|journey|tour] [begins|starts] on {v}."), _ask("date", "When does [the trip|{s}] [start|leave|begin]?", "On which date does {s} leave?")),
        A("transport", _of("train bus car plane ship bicycle boat taxi".split()), _says("transport", "{s} [takes|uses|goes by|travels by] [the|] {v}.", "The [trip|journey] is by {v}."), _ask("transport", "How does {s} [travel|go|get there]?", "What does {s} [take|use]?")),
        A("price", _number(20, 3000), _says("price", "It costs {v} [euros|dollars|pounds].", "[The ticket is|They paid|The total is] {v} [dollars|euros]."), ["How much [does the trip cost|is the ticket|did it cost|is the trip]?", "What [is the price|did it cost|does it cost|did the trip cost]?"]),
    ]),
]  # fmt: skip
