"""A small skill: questions about one table, answered by SQL in one normal form. Generated, seeded, without any model.

    lamps(name, weight, city, price, brand)
    Name the 3 heaviest lamps from Oslo.
    SELECT name FROM lamps WHERE city = 'Oslo' ORDER BY weight DESC LIMIT 3

A table has a name column, two of numbers and two of texts, drawn anew for every example. What makes it hard for a small
model: adjectives name columns ("heavier" is weight; "older" is age in one table and an earlier year in another), texts
are copied letter by letter, and conditions, orders and groups combine. Held-out examples ask of tables and of texts
that training never names.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NUMBERS: Mapping[str, tuple[str, str, str, str]] = {
    "weight": ("heavier than {}", "lighter than {}", "heaviest", "lightest"),
    "price": ("more expensive than {}", "cheaper than {}", "most expensive", "cheapest"),
    "length": ("longer than {}", "shorter than {}", "longest", "shortest"),
    "height": ("taller than {}", "lower than {}", "tallest", "lowest"),
    "speed": ("faster than {}", "slower than {}", "fastest", "slowest"),
    "age": ("older than {}", "younger than {}", "oldest", "youngest"),
    "year": ("from after {}", "from before {}", "newest", "oldest"),
    "rating": ("rated above {}", "rated below {}", "best rated", "worst rated"),
    "depth": ("deeper than {}", "shallower than {}", "deepest", "shallowest"),
    "width": ("wider than {}", "narrower than {}", "widest", "narrowest"),
    "size": ("larger than {}", "smaller than {}", "largest", "smallest"),
    "heat": ("hotter than {}", "colder than {}", "hottest", "coldest"),
    "power": ("stronger than {}", "weaker than {}", "strongest", "weakest"),
}
"""Column -> more than a number, less than it, most, least."""
COMPARED: Sequence[tuple[str, str]] = (
    ("with a {} over {}", ">"), ("with a {} above {}", ">"), ("with a {} under {}", "<"), ("with a {} below {}", "<"),
    ("with a {} of at least {}", ">="), ("with a {} of at most {}", "<="), ("with a {} of exactly {}", "="),
)  # fmt: skip
TEXTS: Mapping[str, tuple[str, str]] = {
    "city": ("from {}", "not from {}"),
    "country": ("from {}", "not from {}"),
    "brand": ("made by {}", "not made by {}"),
    "owner": ("owned by {}", "not owned by {}"),
    "material": ("made of {}", "not made of {}"),
    "status": ("that are {}", "that are not {}"),
    "color": ("in {}", "not in {}"),
}
VALUES: Mapping[str, tuple[str, str]] = {
    "city": ("Oslo Lima Paris Cairo Quito Turin Perth Delhi Osaka Bergen Malmo Leeds", "Porto Hanoi Basel Tampa Dakar"),
    "country": ("Chile Kenya Norway Japan Peru Spain Ghana Canada Nepal Egypt", "Malta Latvia Brazil Oman"),
    "brand": ("Acme Norda Veltin Korvex Solaro Bexley Humber Tanoka", "Zephyr Drumlin Quorra Mistral"),
    "owner": ("Anna Boris Clara David Elena Farid Grete Hugo Irma Jonas", "Kofi Lydia Marek Nadia"),
    "material": ("steel glass oak paper wool copper clay linen", "brass bamboo leather marble"),
    "status": ("open sold broken new rented closed", "lost hidden reserved"),
    "color": ("red blue green black white yellow", "purple orange silver"),
}
"""Column -> values of training, values that are held out."""
TABLES: tuple[str, str] = (
    "lamps ships books chairs horses bridges towers phones engines rivers boats tents knives doors clocks planes trees "
    "ovens pipes pumps ropes stones wheels robots drills shirts coats bottles vans mirrors paintings tunnels kites",
    "ferries cameras wells guitars barrels trucks helmets statues canoes ladders",
)
AGGREGATES: Mapping[str, str] = {"average": "AVG", "total": "SUM", "highest": "MAX", "lowest": "MIN"}


@dataclass(frozen=True)
class Example:
    """`prompt` ends with a line break; `answer` is the SQL."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Table:
    name: str
    numbers: tuple[str, str]
    texts: tuple[str, str]
    held: bool

    @property
    def columns(self) -> tuple[str, ...]:
        return ("name", self.numbers[0], self.texts[0], self.numbers[1], self.texts[1])


class Writer:
    """Writes examples of one side of the split."""

    def __init__(self, seed: int, held: bool) -> None:
        self.draw = random.Random(seed)
        self.held = held

    def example(self) -> Example:
        table = self._table()
        question, answer = self.draw.choice((_list, _list, _count, _total, _top, _top, _grouped, _distinct))(
            self, table
        )
        return Example(f"{table.name}({', '.join(table.columns)})\n{question}\n", answer)

    def _table(self) -> Table:
        numbers = self.draw.sample(list(NUMBERS), 2)
        texts = self.draw.sample(list(TEXTS), 2)
        if {"city", "country"} == set(texts):  # "from X" names both
            texts[1] = "brand"
        name = self.draw.choice(TABLES[self.held].split())
        return Table(name, (numbers[0], numbers[1]), (texts[0], texts[1]), self.held)

    def where(self, table: Table) -> tuple[str, str]:
        """Return what conditions say, and the clause; both may be empty."""
        count = self.draw.choices((0, 1, 2), (0.2, 0.5, 0.3))[0]
        found = [self._number(table), self._text(table)]
        self.draw.shuffle(found)
        said, clauses = zip(*found[:count], strict=True) if count else ((), ())
        word = self.draw.choice(("and", "or"))
        joined = f" {word} ".join(said)
        clause = f" {word.upper()} ".join(clauses)
        return (f" {joined}", f" WHERE {clause}") if count else ("", "")

    def _number(self, table: Table) -> tuple[str, str]:
        column, value = self.draw.choice(table.numbers), self.draw.randint(2, 99)
        value = value + 1900 if column == "year" else value
        if self.draw.random() < 0.5:
            side = self.draw.randrange(2)
            return NUMBERS[column][side].format(value), f"{column} {'><'[side]} {value}"
        said, sign = self.draw.choice(COMPARED)
        return said.format(column, value), f"{column} {sign} {value}"

    def _text(self, table: Table) -> tuple[str, str]:
        column = self.draw.choice(table.texts)
        value = self.draw.choice(VALUES[column][self.held].split())
        no = self.draw.random() < 0.3
        return TEXTS[column][no].format(value), f"{column} {'!=' if no else '='} '{value}'"


def _list(w: Writer, t: Table) -> tuple[str, str]:
    chosen = w.draw.sample(t.columns, w.draw.randint(1, 2))
    said, clause = w.where(t)
    ask = w.draw.choice(("List the {} of all {}{}", "Show the {} of the {}{}", "Give the {} of every one of the {}{}"))
    question, order = ask.format(" and ".join(chosen), t.name, said), ""
    if w.draw.random() < 0.4:
        column, down = w.draw.choice(t.numbers), w.draw.random() < 0.5
        question += f", {w.draw.choice(('sorted', 'ordered'))} by {column}{' from high to low' if down else ''}"
        order = f" ORDER BY {column}{' DESC' if down else ''}"
    return question + ".", f"SELECT {', '.join(chosen)} FROM {t.name}{clause}{order}"


def _count(w: Writer, t: Table) -> tuple[str, str]:
    said, clause = w.where(t)
    ask = w.draw.choice(("How many {}{} are there?", "Count the {}{}."))
    return ask.format(t.name, said), f"SELECT COUNT(*) FROM {t.name}{clause}"


def _total(w: Writer, t: Table) -> tuple[str, str]:
    word, column = w.draw.choice(list(AGGREGATES)), w.draw.choice(t.numbers)
    said, clause = w.where(t)
    ask = w.draw.choice(("What is the {} {} of the {}{}?", "Find the {} {} of all {}{}."))
    return ask.format(word, column, t.name, said), f"SELECT {AGGREGATES[word]}({column}) FROM {t.name}{clause}"


def _top(w: Writer, t: Table) -> tuple[str, str]:
    column, least, count = w.draw.choice(t.numbers), w.draw.randrange(2), w.draw.randint(2, 9)
    said, clause = w.where(t)
    most = NUMBERS[column][2 + least]
    if most == "oldest" and set(t.numbers) == {"age", "year"}:  # either column could be meant
        return _count(w, t)
    down = "" if least else " DESC"
    ask = w.draw.choice(("Name the {} {} {}{}.", "Which are the {} {} {}{}?"))
    return ask.format(count, most, t.name, said), (
        f"SELECT name FROM {t.name}{clause} ORDER BY {column}{down} LIMIT {count}"
    )


def _grouped(w: Writer, t: Table) -> tuple[str, str]:
    by, (said, clause) = w.draw.choice(t.texts), w.where(t)
    if w.draw.random() < 0.5:
        return f"For each {by}, count the {t.name}{said}.", (
            f"SELECT {by}, COUNT(*) FROM {t.name}{clause} GROUP BY {by}"
        )
    word, column = w.draw.choice(list(AGGREGATES)), w.draw.choice(t.numbers)
    return f"For each {by}, what is the {word} {column} of the {t.name}{said}?", (
        f"SELECT {by}, {AGGREGATES[word]}({column}) FROM {t.name}{clause} GROUP BY {by}"
    )


def _distinct(w: Writer, t: Table) -> tuple[str, str]:
    column, (said, clause) = w.draw.choice(t.texts), w.where(t)
    ask = w.draw.choice(("Which different values of {} do the {}{} have?", "List every {} of the {}{} only once."))
    return ask.format(column, t.name, said), f"SELECT DISTINCT {column} FROM {t.name}{clause}"


def examples(count: int, seed: int, *, held: bool) -> list[Example]:
    """Return examples, none twice."""
    writer, found = Writer(seed, held), dict[str, Example]()
    while len(found) < count:
        example = writer.example()
        found.setdefault(example.prompt, example)
    return list(found.values())
