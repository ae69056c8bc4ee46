"""Text tables as other programs write them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import proxflow as pf
from tests.data.sources import raw, refusal
from tests.marks import slow_beyond

ROWS = [[1.5, -2.25], [3.125, 40.0], [-0.5, 7.75]]
FRAME = pd.DataFrame(ROWS, columns=["width", "height"])
NAMES = ("width", "height")

WRITERS: dict[str, Callable[[Path], object]] = {
    "comma": lambda path: FRAME.to_csv(path, index=False),
    "semicolon": lambda path: FRAME.to_csv(path, index=False, sep=";"),
    "tab": lambda path: FRAME.to_csv(path, index=False, sep="\t"),
    "bar": lambda path: FRAME.to_csv(path, index=False, sep="|"),
    "decimal comma": lambda path: FRAME.to_csv(path, index=False, sep=";", decimal=","),
    "decimal comma, tab": lambda path: FRAME.to_csv(path, index=False, sep="\t", decimal=","),
    "spaces": lambda path: path.write_text(FRAME.to_string(index=False)),
    "Excel's Unicode": lambda path: FRAME.to_csv(path, index=False, sep="\t", encoding="utf-16"),
    "Excel's UTF-8": lambda path: FRAME.to_csv(path, index=False, encoding="utf-8-sig"),
    "old Mac": lambda path: path.write_bytes(FRAME.to_csv(index=False).replace("\n", "\r").encode()),
    "Windows": lambda path: FRAME.to_csv(path, index=False, lineterminator="\r\n"),
    "with an index": lambda path: FRAME.to_csv(path),
    "R's row names": lambda path: path.write_text('"width" "height"\n"a" 1.5 -2.25\n"b" 3.125 40\n"c" -0.5 7.75\n'),
    "trailing commas": lambda path: path.write_text("width,height,\n1.5,-2.25,\n3.125,40,\n-0.5,7.75,\n"),
    "trailing commas of rows": lambda path: path.write_text("width,height\n1.5,-2.25,\n3.125,40,\n-0.5,7.75,\n"),
    "comments": lambda path: path.write_text("# by hand\nwidth,height\n1.5,-2.25\n# a pause\n3.125,40\n-0.5,7.75\n"),
    "names in a comment": lambda path: np.savetxt(path, ROWS, header="width,height", delimiter=","),
    "quoted": lambda path: FRAME.to_csv(path, index=False, quoting=1),
    "gzipped": lambda path: path.write_bytes(gzip.compress(FRAME.to_csv(index=False).encode())),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_common_form_is_found(kind: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path / "table.csv")
    dataset = raw(tmp_path / "table.csv")
    assert dataset.points.tolist() == ROWS
    assert dataset.columns == NAMES


@pytest.mark.parametrize("suffix", [".tsv", ".csv.gz", ".tsv.gz", ".CSV.GZ"])
def test_suffixes_of_tables(suffix: str, tmp_path: Path) -> None:
    text = FRAME.to_csv(index=False, sep="\t" if "tsv" in suffix else ",").encode()
    (tmp_path / f"a.b{suffix}").write_bytes(gzip.compress(text) if "gz" in suffix.lower() else text)
    dataset = raw(tmp_path / f"a.b{suffix}")
    assert dataset.points.tolist() == ROWS
    assert dataset.name == "a.b"


@pytest.mark.parametrize("text", ["1,5;2,5\n3,5;4,25\n", "x;y\n1,5;2,5\n3,5;4,25\n"])
def test_a_decimal_comma_is_not_a_separator(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert raw(tmp_path / "x.csv").points.tolist() == [[1.5, 2.5], [3.5, 4.25]]


def test_a_mistake_beside_decimal_commas_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("x;y\n1,5;2,5\n3,5;?\n1,25;4,5\n2,5;1,5\n")
    assert "the column 'y' holds '?' in row 1" in refusal(tmp_path / "x.csv")
    assert raw(tmp_path / "x.csv", drop_missing=True).points.tolist() == [[1.5, 2.5], [1.25, 4.5], [2.5, 1.5]]


def test_the_form_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("x:y\n1,5:2\n3,5:4\n")
    assert raw(tmp_path / "x.csv", sep=":", decimal=",").points.tolist() == [[1.5, 2], [3.5, 4]]
    assert "sep must be one character" in refusal(tmp_path / "x.csv", sep="ab")
    assert "decimal must be '.' or ','" in refusal(tmp_path / "x.csv", decimal=";")


def test_latin_1_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("größe,x\n1,2\n3,4\n".encode("latin-1"))
    message = refusal(tmp_path / "x.csv")
    assert "line 1 is not utf-8: byte 0xf6" in message
    assert "--encoding latin-1" in message
    assert raw(tmp_path / "x.csv", encoding="latin-1").columns == ("größe", "x")
    assert "there is no encoding 'martian'" in refusal(tmp_path / "x.csv", encoding="martian")


def test_lines_before_the_table_are_named_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("Report of today\n\nby me,and you\n\nx,y,z\n1,2,3\n4,5,7\n2,2,2\n")
    assert "skip_lines=4 (--skip-lines 4)" in refusal(tmp_path / "x.csv")
    assert raw(tmp_path / "x.csv", skip_lines=4).columns == ("x", "y", "z")


@pytest.mark.parametrize(
    ("before", "skipped"), [("Exported by X\n\n", 2), ("Exported by X\nfor me\n", 2), ("Exported, 2024-01-01\n", 1)]
)
def test_a_line_before_the_names_is_not_the_names(before: str, skipped: int, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"{before}a,b\n1.5,2\n2,3\n3,5\n")
    assert f"skip_lines={skipped} (--skip-lines {skipped})" in refusal(tmp_path / "x.csv")
    assert raw(tmp_path / "x.csv", skip_lines=skipped).points.tolist() == [[1.5, 2], [2, 3], [3, 5]]


def test_a_line_before_the_name_of_one_column_is_not_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("Exported by X\nprice\n12\n13\n")
    assert "skip_lines=1 (--skip-lines 1)" in refusal(tmp_path / "x.csv")


def test_a_line_of_units_is_left_out_on_request(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n[m],[kg]\n1,2\n3,5\n")
    assert "if it holds units, drop_missing=True (--drop-missing) leaves it out" in refusal(tmp_path / "x.csv")
    dataset = raw(tmp_path / "x.csv", drop_missing=True)
    assert (dataset.columns, dataset.points.tolist()) == (("a", "b"), [[1, 2], [3, 5]])


def test_a_first_row_without_values_is_no_line_of_names(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('"x" "y"\n"a" NA NA\n"b" 3 4\n')
    assert raw(tmp_path / "x.csv", drop_missing=True).points.tolist() == [[3, 4]]


def test_counts_in_place_of_names_are_refused(tmp_path: Path) -> None:
    """As in scikit-learn's iris.csv, whose five classes' names fit its five columns by chance."""
    lines = ["3,4,setosa,versicolor,virginica", "5.1,3.5,1.4,.2,0", "4.9,3,1.4,.2,1", "4.7,3.2,1.3,.2,2"]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    message = refusal(tmp_path / "x.csv")
    assert (
        "its first line counts the rows and columns rather than name them: '3,4,setosa,versicolor,virginica'" in message
    )
    assert "skip_lines=1 (--skip-lines 1)" in message
    assert raw(tmp_path / "x.csv", skip_lines=1).points.shape == (3, 5)
    (tmp_path / "x.csv").write_text("\n".join(["4,4,a,b,c", *lines[1:]]))
    assert raw(tmp_path / "x.csv").columns[2:] == ("a", "b", "c")  # years, such as 2019, are names


def test_a_broken_line_is_shown(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("x,y\n1,2\n3,4\n5,6,7\n8,9\n")
    assert "1 of its lines do not have 2 cells, the first of them 3: '5,6,7'" in refusal(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"# nothing\n\n", "it is empty"),
        (b"\x00\x01\x02\x03", "zero bytes"),
        (b"\x1f\x8b\x08\x00", "EOFError"),
        ("x,y\n1,2\n".encode("utf-16-le"), "encoding='utf-16-le'"),
    ],
)
def test_what_is_no_table_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    assert words in refusal(tmp_path / "x.csv")


def test_a_cell_of_many_lines_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('x,label\n1,"a\n# b"\n2,"a\n\nc"\n3,d\n')
    assert raw(tmp_path / "x.csv").label_names == ("a\n\nc", "a\n# b", "d")


def test_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(50, 3)) * 10.0 ** np.arange(-3, 6, 3)
    np.savetxt(tmp_path / "x.csv", values, fmt="%.17g", delimiter=";")
    assert np.array_equal(raw(tmp_path / "x.csv").points.numpy(), values)


def test_another_kind_of_file_takes_no_separator(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "x.parquet")
    assert "sep= (--sep) is for .csv and .tsv files" in refusal(tmp_path / "x.parquet", sep=";")
    assert isinstance(pf.data.load(Path(tmp_path / "x.parquet")), pf.data.Dataset)


def test_rows_that_begin_with_a_hash_are_left_out_with_a_warning(tmp_path: Path) -> None:
    """They may be comments, or rows whose first cell is a tag or a rank."""
    (tmp_path / "a.csv").write_text("tag,a,b\n#happy,1,2.5\nsad,3,4\n#glad,5,7\n# a remark\n")
    with pytest.warns(pf.DataWarning, match=r"2 lines .* 3 cells as a row has, such as '#happy,1,2.5'.* quotes"):
        assert raw(tmp_path / "a.csv").points.tolist() == [[3, 4]]
    (tmp_path / "a.csv").write_text('tag,a,b\n"#happy",1,2.5\nsad,3,4\n"#glad",5,7\n')
    assert raw(tmp_path / "a.csv").points.tolist() == [[1, 2.5], [3, 4], [5, 7]]


def test_names_that_are_numbers_are_told_by_their_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"1990","1992"\n5.5,6.25\n3,7\n')
    dataset = raw(tmp_path / "a.csv")
    assert dataset.columns == ("1990", "1992")
    assert dataset.points.tolist() == [[5.5, 6.25], [3, 7]]
    (tmp_path / "a.csv").write_text('"1990","1992"\n"5.5","6.25"\n"3","7"\n')
    assert raw(tmp_path / "a.csv").points.tolist() == [[1990, 1992], [5.5, 6.25], [3, 7]]


@pytest.mark.parametrize("first", ["1990,1991,1992", "1,2,3"])
def test_a_first_line_that_counts_may_be_names(first: str, tmp_path: Path) -> None:
    row = ",".join(["0.25"] * len(first.split(",")))
    (tmp_path / "a.csv").write_text(f"{first}\n{row}\n{row}\n")
    assert "may be column names or numbers" in refusal(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text(f"{first}\n{first}\n{row}\n")
    assert raw(tmp_path / "a.csv").n == 3


@pytest.mark.parametrize("separator", slow_beyond(1, [",", " "]))
def test_long_cells_and_long_lines_are_read(separator: str, tmp_path: Path) -> None:
    """Longer than the 131,072 characters of Python's csv and the million bytes that arrow reads at once."""
    numbers = np.random.default_rng(0).normal(size=(3, 15_000))
    names = [f"gene{i}" for i in range(numbers.shape[1])]
    pd.DataFrame(numbers, columns=names).to_csv(tmp_path / "wide.csv", index=False, sep=separator)
    dataset = raw(tmp_path / "wide.csv")
    assert np.array_equal(dataset.points.numpy(), numbers)
    assert dataset.columns == tuple(names)
    (tmp_path / "long.csv").write_text(f"x,y,text\n1,2.5,{'a' * 1_500_000}\n3,4,b\n")
    assert raw(tmp_path / "long.csv").points.tolist() == [[1, 2.5], [3, 4]]


def test_spaces_around_labels_are_no_part_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x, label\n1.5, cat\n2.5,cat\n3.5,dog \n")
    assert raw(tmp_path / "a.csv").label_names == ("cat", "dog")


def test_a_space_before_a_quoted_cell_does_not_make_spaces_separate(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a, b, name\n1, 2, "x, y"\n3, 4, "z"\n4, 5, "w"\n')
    assert "do not have 3 cells" in refusal(tmp_path / "a.csv")
