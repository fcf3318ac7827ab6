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
CITY = A("city", words.city, ["{s} lives in {v}.", "{s} is from {v}.", "The home of {s} is {v}.", "{s} moved to {v} last year."],
    ["Where does {s} live?", "In which city does {s} live?", "What city does {s} live in?", "Which city is the home of {s}?", "Where is {s} from?"])  # fmt: skip
SCHEMAS = [
    Schema("person", "name", words.person, ["{s} is {v} years old.", "{s} turned {v} this year.", "{s}, {v}, is a friend of mine.", "Meet {s}, age {v}."], "{s} is {v} years old.", [
        A("age", _number(18, 90), [], ["How old is {s}?", "What is the age of {s}?", "What age is {s}?", "Tell me the age of {s}"]),
        CITY,
        A("job", _of(words.JOBS), ["{s} works as a {v}.", "{s} is a {v}.", "The job of {s} is {v}.", "By day {s} is a {v}."], ["What is the job of {s}?", "What does {s} work as?", "What is {s}'s job?", "Which job does {s} have?"]),
        A("hobby", _of(words.HOBBIES), ["{s} likes {v}.", "{s} loves {v}.", "In the evening {s} enjoys {v}.", "The hobby of {s} is {v}."], ["What does {s} like?", "What is the hobby of {s}?", "What is {s}'s hobby?", "Which hobby does {s} have?"]),
        A("email", words.email, ["You can write to {v}.", "The email of {s} is {v}.", "Email: {v}.", "Send mail to {v}."], ["What is the email of {s}?", "What is {s}'s email address?", "Which email address does {s} have?", "How can I mail {s}?"]),
        A("phone", _phone, ["The phone number is {v}.", "Call {v}.", "Phone: {v}.", "{s} can be reached at {v}."], ["What is the phone number of {s}?", "What is {s}'s phone number?", "Which number should I call?", "How can I call {s}?"]),
    ]),
    Schema("shop", "place", _place, ["{v} opened {s}.", "{s} was opened by {v}.", "{v} runs {s}.", "{s} belongs to {v}."], "{v} owns {s}.", [
        A("owner", words.person, [], ["Who owns {s}?", "Who is the owner of {s}?", "Who runs {s}?", "To whom does {s} belong?"]),
        A("city", words.city, ["It is in {v}.", "It lies in the middle of {v}.", "You find it in {v}.", "The place is in {v}."], ["Where is {s}?", "In which city is {s}?", "What city is {s} in?", "Where do I find {s}?"]),
        A("year", _number(1850, 2024), ["It opened in {v}.", "It has been there since {v}.", "It started in {v}.", "The doors opened in {v}."], ["When did {s} open?", "In which year did {s} open?", "Since when does {s} exist?", "What year did {s} start?"]),
        A("product", _of(words.FOODS), ["It is known for its {v}.", "It sells {v}.", "People come for the {v}.", "Try the {v}!"], ["What does {s} sell?", "What is {s} known for?", "What can I buy at {s}?", "What do people get at {s}?"]),
    ]),
    Schema("order", "order_id", _number(1000, 9999), ["{v} placed order {s}.", "Order {s} is from {v}.", "Order {s} was placed by {v}.", "We got order {s} from {v}."], "{v} placed order {s}.", [
        A("customer", words.person, [], ["Who placed order {s}?", "Who is the customer of order {s}?", "Whose order is {s}?", "Which customer has order {s}?"]),
        A("item", words.noun, ["The item is a {v}.", "It is for a {v}.", "The customer wants a {v}.", "Item: {v}."], ["What is the item?", "What was ordered?", "Which item is in order {s}?", "What does the customer want?"]),
        A("quantity", _number(1, 50), ["The quantity is {v}.", "The box holds {v} of them.", "Quantity: {v}.", "They need {v} pieces."], ["What is the quantity?", "How many pieces are in order {s}?", "How many are needed?", "What quantity was ordered?"]),
        A("price", _number(2, 900), ["It costs {v} dollars.", "The price is {v} euros.", "The total is {v} dollars.", "They pay {v} euros."], ["What is the price?", "How much does it cost?", "How much is order {s}?", "What is the total of order {s}?"]),
        A("city", words.city, ["Ship it to {v}.", "It goes to {v}.", "Send it to {v}.", "The delivery is to {v}."], ["Where does order {s} go?", "To which city is it sent?", "Where is it shipped?", "What city does order {s} go to?"]),
    ]),
    Schema("event", "event", _title, ["{s} takes place on {v}.", "The event {s} is on {v}.", "On {v} we have {s}.", "Join us on {v} for {s}."], "{s} is on {v}.", [
        A("date", _date, [], ["When is {s}?", "On which date is {s}?", "What is the date of {s}?", "When does {s} take place?"]),
        A("time", _time, ["It starts at {v}.", "The start is at {v}.", "Doors open at {v}.", "Be there at {v}."], ["At what time does it start?", "What time does {s} start?", "When does it begin on that day?", "What is the start time?"]),
        A("city", words.city, ["It is held in {v}.", "The place is {v}.", "We meet in {v}.", "Come to {v}."], ["Where is {s}?", "In which city is {s}?", "Where does {s} take place?", "Which city hosts {s}?"]),
        A("host", words.person, ["The host is {v}.", "It is hosted by {v}.", "{v} leads the evening.", "{v} will be the host."], ["Who is the host?", "Who hosts {s}?", "Who leads {s}?", "By whom is {s} hosted?"]),
    ]),
    Schema("pet", "name", words.name, ["{s} is a {v}.", "We have a {v} named {s}.", "Our {v} is called {s}.", "The {v} {s} lives with us."], "{s} is a {v}.", [
        A("animal", _of(words.ANIMALS), [], ["What animal is {s}?", "What kind of animal is {s}?", "What is {s}?", "Which animal is {s}?"]),
        A("color", _of(words.COLOURS), ["{s} is {v}.", "The fur is {v}.", "The color of {s} is {v}.", "{s} has a {v} coat."], ["What color is {s}?", "Which color does {s} have?", "What is the color of {s}?", "What colour is {s}?"]),
        A("age", _number(1, 19), ["{s} is {v} years old.", "The age of {s} is {v}.", "{s} turned {v} in spring.", "Age: {v}."], ["How old is {s}?", "What is the age of {s}?", "What age is {s}?", "Tell me the age of {s}"]),
        A("owner", words.person, ["The owner is {v}.", "{s} belongs to {v}.", "{v} takes care of {s}.", "{v} feeds {s}."], ["Who owns {s}?", "Who is the owner of {s}?", "To whom does {s} belong?", "Who takes care of {s}?"]),
    ]),
    Schema("book", "title", _title, ["{v} wrote {s}.", "{s} was written by {v}.", "{s} is a book by {v}.", "The author of {s} is {v}."], "{v} wrote {s}.", [
        A("author", words.person, [], ["Who wrote {s}?", "Who is the author of {s}?", "By whom is {s}?", "Which author wrote {s}?"]),
        A("year", _number(1800, 2024), ["It came out in {v}.", "It was printed in {v}.", "The book is from {v}.", "It appeared in {v}."], ["When did {s} come out?", "In which year did {s} appear?", "From which year is {s}?", "What year is {s} from?"]),
        A("pages", _number(40, 900), ["It has {v} pages.", "The book is {v} pages long.", "Readers get {v} pages.", "Pages: {v}."], ["How many pages does {s} have?", "How long is {s}?", "How many pages are there?", "What is the number of pages?"]),
        A("topic", words.noun, ["It is about a {v}.", "The story is about a {v}.", "It tells of a {v}.", "The topic is a {v}."], ["What is {s} about?", "What is the topic of {s}?", "What does the book tell of?", "About what is {s}?"]),
    ]),
    Schema("town", "name", _proper, ["{s} is a town with {v} people.", "{v} people live in {s}.", "The town of {s} has {v} people.", "In {s} there are {v} people."], "{s} has {v} people.", [
        A("population", _number(200, 99000), [], ["How many people live in {s}?", "What is the population of {s}?", "How big is {s}?", "How many people does {s} have?"]),
        A("river", _proper, ["It lies on the river {v}.", "The river {v} runs through it.", "The river there is the {v}.", "It stands by the river {v}."], ["Which river runs through {s}?", "On which river is {s}?", "What is the river of {s}?", "What river does {s} lie on?"]),
        A("mayor", words.person, ["The mayor is {v}.", "{v} is the mayor.", "Its mayor is {v}.", "{v} was elected mayor."], ["Who is the mayor of {s}?", "Who is the mayor?", "What is the name of the mayor?", "Who leads {s} as mayor?"]),
        A("product", words.noun, ["The town is famous for the {v}.", "It is known for the {v}.", "Its sign is the {v}.", "People visit to see the {v}."], ["What is {s} famous for?", "What is {s} known for?", "Why do people visit {s}?", "For what is {s} famous?"]),
    ]),
    Schema("server", "server", lambda d: f"{d.invented()}-{d.number(1, 99)}", ["{s} is {v}.", "The server {s} is {v}.", "Status of {s}: {v}.", "Right now {s} is {v}."], "{s} is {v}.", [
        A("status", _of(["online", "offline", "busy", "idle", "broken", "starting", "stopped"]), [], ["What is the status of {s}?", "How is {s}?", "Is {s} online?", "Which status does {s} have?"]),
        A("memory", _number(1, 512), ["It has {v} GB of memory.", "Memory: {v} GB.", "The memory is {v} GB.", "It came with {v} GB of memory."], ["How much memory does {s} have?", "What is the memory of {s}?", "How many GB does {s} have?", "How big is the memory?"]),
        A("region", _of(["us", "eu", "ap", "north", "south", "west", "east"]), ["It runs in the region {v}.", "Region: {v}.", "The region is {v}.", "It stands in region {v}."], ["In which region is {s}?", "What is the region of {s}?", "Which region does {s} run in?", "Where does {s} run?"]),
        A("admin", words.person, ["The admin is {v}.", "{v} looks after it.", "Ask {v} for access.", "{v} is the admin."], ["Who is the admin of {s}?", "Who looks after {s}?", "Who is the admin?", "Whom do I ask for access?"]),
    ]),
    Schema("trip", "traveler", words.person, ["{s} travels to {v}.", "{s} is going to {v}.", "{s} booked a trip to {v}.", "The trip of {s} goes to {v}."], "{s} travels to {v}.", [
        A("destination", words.city, [], ["Where does {s} travel?", "Where is {s} going?", "What is the destination of {s}?", "To which city does {s} travel?"]),
        A("date", _date, ["The date is {v}.", "It starts on {v}.", "The trip begins on {v}.", "Date: {v}."], ["When does the trip start?", "What is the date?", "On which date does {s} leave?", "When does {s} leave?"]),
        A("transport", _of("train bus car plane ship bicycle boat taxi".split()), ["{s} takes the {v}.", "{s} goes by {v}.", "They use the {v}.", "The trip is by {v}."], ["How does {s} travel?", "What does {s} take?", "By what does {s} go?", "Which transport does {s} use?"]),
        A("price", _number(20, 3000), ["It costs {v} euros.", "The ticket is {v} dollars.", "The price is {v} euros.", "They paid {v} dollars."], ["How much does the trip cost?", "What is the price?", "How much is the ticket?", "What did it cost?"]),
    ]),
]  # fmt: skip
