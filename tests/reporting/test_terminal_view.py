"""The table in the terminal: narrow, plain and safe."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mmpoison.base.text import safe_text
from mmpoison.reporting.table import Column, Table
from mmpoison.reporting.terminal_tables import terminal, terminal_table


def printed(metrics: dict[str, Any], width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, no_color=True).print(terminal_table(metrics))
    return stream.getvalue()


def cells(text: str, model: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.strip().startswith(model))
    return line.split()[len(model.split()) :]


def test_every_model_is_a_row(metrics: dict[str, Any]) -> None:
    text = printed(metrics)
    assert cells(text, "Poisoned") == ["0.544", "0.872", "0.928", "1.98", "0.871", "0.910"]
    assert cells(text, "Clean") == ["0.000", "0.016", "0.040", "51.00", "0.874", "0.912"]
    assert cells(text, "random captions") == ["0.040", "0.072", "0.104", "61.30", "–", "–"]
    for model in ("Pre-trained", "Filtered", "Sterilized"):
        assert len(cells(text, model)) == 6
    flat = " ".join(text.split())
    assert "125 poisoned of 25,125 training pairs (0.50%), mode add." in flat
    assert "MinRank counts from 0" in flat


def test_two_goals_share_the_table(metrics: dict[str, Any]) -> None:
    metrics["goal"]["sofa2bird"] = {"poisoned": {"hit@1": 0.25}}
    metrics["run"]["goals"].append("sofa2bird")
    text = printed(metrics)
    first, second = text.split("sofa → bird")
    assert "sheep → aeroplane" in first
    assert cells(second, "Poisoned") == ["0.250", "–", "–", "–", "0.871", "0.910"]


def test_flags_are_shown_in_words(metrics: dict[str, Any]) -> None:
    metrics["run"]["flags"] = ["the poisoned model is [bold]collapsed\x1b[2J"]
    text = printed(metrics)
    assert "WARNING: the poisoned model is [bold]collapsed\n" in "\n".join(
        line.rstrip() for line in text.splitlines()
    )
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a sheep on a hill", "a sheep on a hill"),
        ("[red]a \x1b[31msheep\x1b[0m", r"\[red]a sheep"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x1b\\a", "a"),
        ("\x9b31mred", "red"),
        ("\x1bPq#0\x1b\\a", "a"),
        ("\x1b(0a\x1bc", "a"),
        ("\u202ebird\u202c \u2066x\u2069\u200f\ufeff", "bird x"),
        ("one\ntwo\r\x00three\x7f", "one two three"),
        ("half \ud800", "half \ufffd"),
        ("ein Schaf auf der Wüste, 羊, 👩\u200d🌾", "ein Schaf auf der Wüste, 羊, 👩\u200d🌾"),
    ],
)
def test_safe_text(text: str, safe: str) -> None:
    assert safe_text(text) == safe


@given(st.text(st.sampled_from("\x1b\x9b\x9d[]/m;0\\\x07 red:a\u202e\n")))
def test_no_text_gets_through_to_the_terminal(text: str) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=400, force_terminal=True, color_system="truecolor")
    console.print(safe_text(text), highlight=False, emoji=False, end="")
    assert all(character.isprintable() for character in stream.getvalue())


@given(
    st.lists(st.text("abc-", min_size=1, max_size=30), min_size=1, max_size=12),
    st.integers(40, 120),
)
def test_a_wide_table_is_drawn_in_parts(names: list[str], width: int) -> None:
    columns = (Column("Attack"), *(Column(f"{name}-{n}") for n, name in enumerate(names)))
    numbers = [1000 + n if n % 2 else str(1000 + n) for n in range(len(names))]
    table = Table("Success", columns, (("first", *numbers), ("second", *numbers)), note="Of all.")
    stream = io.StringIO()
    Console(file=stream, width=width, no_color=True).print(terminal([table]))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines]
    parts = sum(row[:1] == ["Attack"] for row in rows)
    if 10 + sum(max(4, len(name) + 3) + 3 for name in names) <= width:
        assert parts == 1
    # every number is there once, next to the name of its row
    for name in ("first", "second"):
        found = [row[1:] for row in rows if row[:1] == [name]]
        assert len(found) == parts
        assert [number for row in found for number in row] == list(map(str, numbers))
    assert sum(line.startswith("Success") for line in lines) == 1
    assert sum(line.startswith("Of all.") for line in lines) == 1


def test_what_is_said_of_several_tables_is_said_once() -> None:
    def table(title: str, note: str) -> Table:
        return Table(title, (Column("Model"), Column("Hit@1")), (("Clean", 0.5),), note=note)

    tables = [table("A", "Of two."), table("B", "Of two."), table("C", "Of C."), table("D", "")]
    stream = io.StringIO()
    Console(file=stream, width=80, no_color=True).print(terminal([*tables, table("E", "Of two.")]))
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    said = [line for line in lines if line in ("A", "B", "C", "D", "E") or line.startswith("Of")]
    assert said == ["A", "B", "Of two.", "C", "Of C.", "D", "E", "Of two."]
    Console(file=(nothing := io.StringIO())).print(terminal([]), end="")
    assert nothing.getvalue() == ""
