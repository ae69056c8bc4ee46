"""Stray quotes, thousands and long numbers far down in a text table: refused or warned of, never swallowed."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import proxflow as pf

ROWS = "".join(f"{i * 1.5},{i * i % 7},item{i}\n" for i in range(50))
WHOLE = "".join(f"{i + 3};{i * 7 % 50}\n" for i in range(150))


def loaded(folder: Path, text: str, **options: object) -> tuple[pf.data.Dataset, list[str]]:
    (folder / "table.csv").write_text(text)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = pf.data.load(folder / "table.csv", **options)  # type: ignore[arg-type]
    return found, [str(each.message) for each in said]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f'a,b,t\n{ROWS}1,2,"broken\n{ROWS}', '1,2,"broken'),
        (f'a,b,t\n{ROWS}1,2,"one\n{ROWS}1,2,"two\n{ROWS}', '1,2,"one'),
        ('a,b\n1,2\n3,"4\n5,6\n7,8\n', '3,"4'),
        ('a b\n1 2\n3 "4\n5 6\n', '3\\t"4'),
        ('a;b\n1;2\n3;4\n5;"6', '5;"6'),
    ],
)
def test_a_quote_that_swallows_rows_is_refused(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ValueError, match="a double quote opens a cell that does not end in its line") as refused:
        loaded(tmp_path, text)
    assert repr(line.replace("\\t", "\t")) in str(refused.value)


def test_quotes_that_close_are_read(tmp_path: Path) -> None:
    text = 'a,b,t\n1,2,"x\ny"\n3,5,"he said ""no"""\n5,6,5" pipe\n7,8,"x" \n'
    found, said = loaded(tmp_path, text)
    assert (found.n, said) == (4, [])


def test_thousands_below_the_first_lines_are_doubted(tmp_path: Path) -> None:
    _, said = loaded(tmp_path, f"a;b\n{WHOLE}1.234;5\n2.500;6\n")
    assert any("read as decimal marks, but semicolons separate" in line for line in said)
    _, said = loaded(tmp_path, f"a;b\n{WHOLE}1.234;5\n2.57;6\n")  # which rules thousands out
    assert said == []
    found, _ = loaded(tmp_path, f"a;b\n{WHOLE}1.234;5\n2.500;6\n", decimal=",", standardise="none")
    assert found.points[-1].tolist() == [2500, 6]


def test_whole_numbers_beyond_64_bits_are_doubted(tmp_path: Path) -> None:
    _, said = loaded(tmp_path, "key,b\n12345678901234567890,1\n12345678901234567891,2\n12345678901234567892,4\n")
    assert any("'key'" in line and "above 2^53" in line and "12345678901234567890" in line for line in said)
    _, said = loaded(tmp_path, "mass,b\n1e30,1\n2.5,2\n6e23,4\n")
    assert not any("2^53" in line for line in said)
