"""Figures of tables stay whole at any width; long names give way."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from mnv4_deploy.terminal.tables import Column, print_table, short

LONG = "blocks.3.inverted_bottleneck.depthwise_convolution_with_a_long_name"
OPERATORS = "QuantizeLinear, DequantizeLinear, HardSigmoid, Mul, Transpose, ReorderOutput"
COLUMNS = (
    *(Column.text("module", 38), Column("A ms"), Column("B ms"), Column("B/A")),
    Column.text("operators"),
)
ROWS = [
    (LONG, "123.456", "234.567", "1.90 [1.88-1.92]", OPERATORS),
    ("stem", "0.040", "0.089", "2.21 [1.25-2.25]", "Conv"),
    ("层/выход", "1.000", "2.000", "2.00 [2.00-2.00]", "Conv"),
    ("(sum)", "124.496", "236.656"),
]


def shown(width: int, **options: object) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, **options)  # type: ignore[arg-type]
    print_table(console, COLUMNS, ROWS)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [10, 40, 50, 60, 80, 100, 200])
def test_every_figure_is_there_at_every_width(width: int) -> None:
    lines = shown(width)
    assert len(lines) == len(ROWS) + 1
    for line, row in zip(lines[1:], ROWS, strict=True):
        for figure in row[1:4]:
            assert figure in line
    assert all(title in lines[0] for title in ("A ms", "B ms", "B/A"))


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_table_is_no_wider_than_its_terminal(width: int) -> None:
    for line in shown(width):
        assert cell_len(line.rstrip()) <= width


def test_the_longest_text_gives_way_first() -> None:
    """At 80 columns there is room for 31 of two texts: as much for each."""
    first = shown(80)[1]
    assert "blocks" in first
    assert "…" in first
    assert "stem" in shown(80)[2]
    assert LONG[:12] in shown(200)[1]
    assert OPERATORS in shown(200)[1]


@pytest.mark.parametrize("width", [5, 8, 20, 38])
@pytest.mark.parametrize(
    "text", [LONG, "层层层层层层层层层层层层层层层层层层层层层", "a b\nc\x1b[31m" * 9]
)
def test_a_shortened_text_fits_and_keeps_both_ends(text: str, width: int) -> None:
    found = short(text, width)
    assert cell_len(found) <= width
    assert found[0] == text[0]
    assert found[-1] == text[-1]
    assert found.isprintable()
    assert "\x1b" not in found


def test_markup_in_a_name_is_a_name() -> None:
    stream = io.StringIO()
    print_table(Console(file=stream, width=80), (Column.text("module"),), [("[red]x[/] [/oops]",)])
    assert "[red]x[/] [/oops]" in stream.getvalue()
