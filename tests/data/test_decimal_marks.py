"""Decimal marks and thousands in text tables: what has two meanings is refused, with the option that settles it."""

from __future__ import annotations

from pathlib import Path

import pytest

import proxflow as pf
from tests.data.sources import csv_file, raw, refusal

# -------------------------------------------------------------------- commas that may separate or not

PRICES = "price\n12,5\n3,75\n99,10\n"


def test_one_column_with_decimal_commas_is_not_read_as_row_names(tmp_path: Path) -> None:
    path = csv_file(tmp_path, PRICES)
    message = refusal(path)
    assert "table.csv" in message
    assert "its first line 'price' has 1 cell and those below 2, such as '12,5'" in message
    assert "decimal=',' with sep=';' (--decimal , --sep ';')" in message
    assert "sep=',' (--sep ,)" in message
    for options in ({"decimal": ","}, {"decimal": ",", "sep": ";"}):
        assert raw(path, **options).points.tolist() == [[12.5], [3.75], [99.1]]
    for options in ({"sep": ","}, {"decimal": "."}):
        dataset = raw(path, **options)
        assert dataset.points.tolist() == [[5], [75], [10]]
        assert dataset.left_out == {"": "row index"}
    assert "decimal=','" in refusal(path, sep=",", decimal=",")


def test_one_column_with_commas_between_thousands_is_not_read_as_row_names(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "price\n1,234\n12,500\n")
    for options in ({}, {"decimal": "."}):
        assert "decimal='.' with sep=';' (--decimal . --sep ';')" in refusal(path, **options)
    assert "that the comma is a decimal mark" in refusal(path)
    assert raw(path, decimal=".", sep=";").points.tolist() == [[1234], [12500]]
    assert raw(path, sep=",").points.tolist() == [[234], [500]]


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,5,2\n2,25,3\n",
        "a,b\n1,5,2\n7,2,25\n",
        "city,price\nParis,12,5\nRome,3,75\n",
        "a,b\n-1,5,x\n2,25e3,y\n",
    ],
)
def test_a_decimal_comma_beside_commas_that_separate_is_refused(text: str, tmp_path: Path) -> None:
    message = refusal(csv_file(tmp_path, text))
    assert "sep=',' (--sep ,) says that commas separate, after a first cell that is the name of its row" in message
    assert "needs another separator to be read with decimal=',' and sep=';'" in message
    assert raw(tmp_path / "table.csv", sep=",").left_out[""] == "row index"


def test_twice_as_many_cells_as_names_is_no_preamble(tmp_path: Path) -> None:
    message = refusal(csv_file(tmp_path, "a,b\n1,5,2,25\n3,5,4,75\n"))
    assert "its first line has 2 cells where the table has 4" in message
    assert "needs another separator to be read with decimal=',' and sep=';'" in message
    assert "skip_lines" not in message


def test_lines_with_and_without_decimal_commas_name_the_option(tmp_path: Path) -> None:
    assert "decimal=',' with sep=';'" in refusal(csv_file(tmp_path, "price\n12\n3\n99,10\n"))
    assert raw(tmp_path / "table.csv", decimal=",").points.tolist() == [[12], [3], [99.1]]


def test_spaces_in_thousands_are_not_row_names(tmp_path: Path) -> None:
    assert "spaces between thousands" in refusal(csv_file(tmp_path, "people\n1 234\n12 345\n"))
    assert raw(tmp_path / "table.csv", sep="space").points.tolist() == [[234], [345]]


def test_without_names_a_decimal_comma_is_doubted(tmp_path: Path) -> None:
    with pytest.warns(
        pf.DataWarning, match=r"taken for two numbers each; sep=',' \(--sep ,\).*decimal=',' \(--decimal"
    ):
        assert raw(csv_file(tmp_path, "12,5\n3,75\n")).points.tolist() == [[12, 5], [3, 75]]
    assert raw(tmp_path / "table.csv", sep=",").points.tolist() == [[12, 5], [3, 75]]
    assert raw(tmp_path / "table.csv", decimal=",").points.tolist() == [[12.5], [3.75]]


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ('"x"\n"1",5\n"2",7\n', [[5], [7]]),
        ('"x","y"\n"a",5,1\n"b",7,2\n', [[5, 1], [7, 2]]),
        ("x,y\na,5.5,1\nb,7,2\n", [[5.5, 1], [7, 2]]),
        ("x\n" + "".join(f"{i},{i * i}\n" for i in range(1, 31)), [[i * i] for i in range(1, 31)]),
        ("x y\na 5 100\nb 7 2\n", [[5, 100], [7, 2]]),
        ("x\ty\na\t5\t100\nb\t7\t200\n", [[5, 100], [7, 200]]),
    ],
)
def test_names_of_rows_as_r_writes_them(text: str, points: list[list[float]], tmp_path: Path) -> None:
    dataset = raw(csv_file(tmp_path, text))
    assert dataset.points.tolist() == points
    assert dataset.left_out == {"": "row index"}


# -------------------------------------------------------------------- two decimal marks


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("german", [True, False])
def test_points_and_commas_in_one_file_ask_for_the_decimal_mark(separator: str, german: bool, tmp_path: Path) -> None:
    text = "a;b\n1.234;2,25\n3.500;4,1\n1.234.567;0,5\n" if german else "a;b\n1,234;2.25\n3,500;4.1\n1,234,567;0.5\n"
    path = csv_file(tmp_path, text.replace(";", separator))
    message = refusal(path)
    assert "decimal='" in message
    assert "(--decimal" in message
    dataset = raw(path, decimal="," if german else ".")
    assert dataset.points.tolist() == [[1234, 2.25], [3500, 4.1], [1234567, 0.5]]
    assert dataset.notes[1].endswith("separates thousands in the column 'a': '1.234' is 1234.0") or not german


@pytest.mark.parametrize(
    "text",
    [
        "a;b\n1.234;2,25\n3.500;4,1\n",
        "a;b\n1,234;2.5\n12,345;3.5\n",
        'a,b\n"1.234","2,25"\n"3.500","4,1"\n',
        'a,b\n1.5,"2,25"\n3.5,"4,125"\n',
    ],
)
def test_both_decimal_marks_are_named_with_a_column_of_each(text: str, tmp_path: Path) -> None:
    message = refusal(csv_file(tmp_path, text))
    assert "both '.' and ',' occur as decimal marks" in message
    assert "column 'a'" in message
    assert "column 'b'" in message
    assert "decimal='.' or decimal=',' (--decimal)" in message


def test_dates_of_day_and_month_are_no_coordinates_beside_decimal_commas(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "date;a;b\n01.02;1,5;2\n02.02;2,5;4\n03.02;5;5\n")
    assert "both '.' and ',' occur as decimal marks" in refusal(path)
    with pytest.warns(pf.DataWarning, match="the column 'date' is left out as text"):
        assert raw(path, decimal=",").points.tolist() == [[1.5, 2], [2.5, 4], [5, 5]]
    assert raw(path, decimal=",", drop="date").columns == ("a", "b")


def test_a_number_with_both_marks_has_one_meaning(tmp_path: Path) -> None:
    dataset = raw(csv_file(tmp_path, "a;b\n1.234,5;2,25\n3,5;4\n1.000.000,0;5\n"))
    assert dataset.points.tolist() == [[1234.5, 2.25], [3.5, 4], [1e6, 5]]
    assert dataset.notes[1] == "'.' separates thousands in the column 'a': '1.234,5' is 1234.5"


@pytest.mark.parametrize("text", ["a\tb\n1,234\t5,678\n9,876\t4,321\n", 'a|b\n1,234|7\n"9,876"|5\n'])
def test_commas_that_may_all_separate_thousands_are_refused(text: str, tmp_path: Path) -> None:
    assert "its commas may be decimal marks or separate thousands" in refusal(csv_file(tmp_path, text))
    assert raw(tmp_path / "table.csv", decimal=".").points[0, 0] == 1234
    assert raw(tmp_path / "table.csv", decimal=",").points[0, 0] == 1.234
    assert raw(csv_file(tmp_path, text.replace("1,234", "0,234"))).points[0, 0] == 0.234


def test_points_in_threes_between_semicolons_are_doubted(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a;b\n1.234;5\n3.500;7\n")
    with pytest.warns(pf.DataWarning, match=r"decimal='\.' \(--decimal \.\) says that '1\.234' has decimals"):
        assert raw(path).points.tolist() == [[1.234, 5], [3.5, 7]]
    assert raw(path, decimal=".").points.tolist() == [[1.234, 5], [3.5, 7]]
    assert raw(path, decimal=",").points.tolist() == [[1234, 5], [3500, 7]]


def test_rows_of_numbers_are_not_left_out_as_missing(tmp_path: Path) -> None:
    path = csv_file(tmp_path, 'a,b\n5,1\n"1,234",2\n7,3\n')
    for missing in (True, False):
        message = refusal(path, drop_missing=missing)
        assert "the column 'a' holds '1,234', and plain numbers elsewhere" in message
        assert "decimal='.' (--decimal .) reads it as 1234.0" in message
    assert raw(path, decimal=".").points.tolist() == [[5, 1], [1234, 2], [7, 3]]
    assert "'\u22121.5'" in refusal(csv_file(tmp_path, "a,b\n\u22121.5,2\n2.5,3\n3,5\n"), drop_missing=True)


# -------------------------------------------------------------------- decimal commas in quotes


def test_decimal_commas_in_quotes_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    path = csv_file(tmp_path, 'a,b\n"1,5","2,25"\n"3,5","4,75"\n')
    assert "decimal=',' (--decimal ,) reads it as 1.5" in refusal(path)
    assert "StopIteration" not in refusal(path, columns="a")
    for options in ({}, {"sep": ","}):
        assert raw(path, decimal=",", **options).points.tolist() == [[1.5, 2.25], [3.5, 4.75]]


# -------------------------------------------------------------------- text that looks like numbers


@pytest.mark.parametrize(
    "cells",
    [
        ("1,234", "12,345"),
        ("10%", "20 %"),
        ("$10", "-$5"),
        ("3 \u20ac", "\u20ac4"),
        ("1 234", "9"),
        ("1\u00a0234", "9\u202f876"),
        ("1'234", "1'000'000"),
        ("1\u2019234", "1\u2019000\u2019000"),
        ("(3)", "(5)"),
        ("\u22121", "\u22122"),
        ("12,5", "3,75"),
        ("1.0D+05", "2.5d-3"),
        ("1_000", "2_500_000"),
    ],
)
def test_text_that_looks_like_numbers_is_left_out_with_a_warning(cells: tuple[str, str], tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,b\n" + "".join(f'"{cell}",{k}\n' for k, cell in enumerate(cells)))
    with pytest.warns(pf.DataWarning, match="the column 'a' is left out as text, but .* looks like a number") as caught:
        dataset = raw(path)
    assert repr(cells[0]) in str(caught[0].message)
    assert "drop='a' (--drop a)" in str(caught[0].message)
    assert list(dataset.left_out) == ["a"]
    assert raw(path, drop="a").columns == ("b",)
    assert repr(cells[0]) in refusal(path, columns="a")


@pytest.mark.parametrize("cells", [("01.02.2024", "02.02.2024"), ("1-2", "3-4"), ("1.2.3", "1.3.0"), ("a1", "b2")])
def test_dates_and_codes_are_left_out_without_a_warning(cells: tuple[str, str], tmp_path: Path) -> None:
    assert raw(csv_file(tmp_path, f"a;b\n{cells[0]};1\n{cells[1]};2\n")).columns == ("b",)
