"""Which columns of a table are coordinates, and what is said about the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

import proxflow as pf
from tests.data.sources import POINTS, csv_file, f64, raw, refusal

GOOD = np.random.default_rng(5).normal(size=(30, 2))
FRAME = pd.DataFrame(GOOD, columns=["width", "height"])


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", ["anything", "Unnamed: 0", "id"])
def test_a_column_that_counts_the_rows_is_left_out(name: str, start: int, tmp_path: Path) -> None:
    FRAME.assign(**{name: range(start, start + 30)}).to_csv(tmp_path / "x.csv", index=False)
    dataset = raw(tmp_path / "x.csv")
    assert dataset.columns == ("width", "height")
    assert list(dataset.left_out) == [name]
    assert np.array_equal(dataset.points.numpy(), GOOD)


def test_whole_numbers_in_another_order_are_data(tmp_path: Path) -> None:
    FRAME.assign(rank=np.random.default_rng(0).permutation(30)).to_csv(tmp_path / "x.csv", index=False)
    assert raw(tmp_path / "x.csv").columns == ("width", "height", "rank")


def test_a_few_numbers_that_count_by_chance_are_data(tmp_path: Path) -> None:
    assert raw(csv_file(tmp_path, "a,b\n0,5\n1,3\n2,9\n")).columns == ("a", "b")
    assert raw(csv_file(tmp_path, "id,b\n0,5\n1,3\n2,9\n")).columns == ("b",)


def test_a_counter_that_is_all_there_is_is_data(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "t,kind\n" + "".join(f"{i},a\n" for i in range(40)))
    assert raw(path).points[:, 0].tolist() == list(range(40))


@pytest.mark.parametrize("name", ["patient_id", "CustomerId", "ID", "row number"])
def test_numbers_that_only_tell_rows_apart_are_doubted(name: str, tmp_path: Path) -> None:
    FRAME.assign(**{name: np.arange(30) * 7 + 1000}).to_csv(tmp_path / "x.csv", index=False)
    with pytest.warns(pf.DataWarning, match=rf"the column '{name}' .*\(--drop '?{name}"):
        assert raw(tmp_path / "x.csv").columns == ("width", "height", name)


@pytest.mark.parametrize("name", ["covid", "humid", "casein", "notation"])
def test_names_that_end_like_identities_are_not_doubted(name: str, tmp_path: Path) -> None:
    FRAME.assign(**{name: np.arange(30) * 7 + 1000}).to_csv(tmp_path / "x.csv", index=False)
    assert name in raw(tmp_path / "x.csv").columns


@pytest.mark.parametrize("name", ["Label", "target", "class", "y", "Species"])
def test_a_numeric_target_is_doubted(name: str, tmp_path: Path) -> None:
    FRAME.assign(**{name: np.arange(30) % 3}).to_csv(tmp_path / "x.csv", index=False)
    with pytest.warns(pf.DataWarning, match=rf"--drop {name}\) leaves it out; label='{name}' \(--label {name}\)"):
        raw(tmp_path / "x.csv")
    assert raw(tmp_path / "x.csv", label=name).class_counts == {"0": 10, "1": 10, "2": 10}


def test_beside_x_y_is_a_coordinate(tmp_path: Path) -> None:
    assert raw(csv_file(tmp_path, "x,y\n1,2\n3,5\n")).columns == ("x", "y")


def test_columns_are_chosen_in_their_order_and_dropped(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,b,c,id,kind\n1,2,3,0,x\n4,5,7,1,y\n")
    assert raw(path, columns=["c", "a"]).points.tolist() == [[3, 1], [7, 4]]
    assert raw(path, columns=["c", "a"]).left_out == dict.fromkeys(["b", "id", "kind"], "not asked for")
    assert raw(path, columns="id").points.tolist() == [[0], [1]]  # what is asked for is never left out
    assert raw(path, drop="b").left_out == {"b": "dropped", "id": "counts 0..N-1", "kind": "text"}
    assert "there is no column 'd'; columns: a, b, c, id, kind" in refusal(path, drop=["d"])
    assert "the column 'kind' cannot be a coordinate: it is text" in refusal(path, columns=["a", "kind"])
    assert "in columns= and in drop=" in refusal(path, columns=["a"], drop=["a"])


def test_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    assert raw(csv_file(tmp_path, "a,a,a.1,a\n1,2,3,4\n2,2,2,1\n")).columns == ("a", "a.1", "a.1.1", "a.2")


@pytest.mark.parametrize("named", [True, False])
def test_the_index_of_a_pandas_frame_is_no_column(named: bool, tmp_path: Path) -> None:
    frame = FRAME.set_index(pd.Index([f"gene{i}" for i in range(30)] if named else range(5, 35), name="who"))
    frame.to_parquet(tmp_path / "x.parquet")
    dataset = raw(tmp_path / "x.parquet")
    assert dataset.columns == ("width", "height")
    assert dataset.left_out == ({"who": "row index"} if named else {})  # a range is not written as a column
    assert pf.data.from_frame(frame).columns == ("width", "height")


# -------------------------------------------------------------------- vectors and structures


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 3), pa.large_list(pa.int16())])
def test_a_column_of_vectors_is_coordinates_under_one_scale(kind: Any, tmp_path: Path) -> None:
    vectors = np.arange(18).reshape(6, 3) ** 2
    values = pa.array(vectors.astype(kind.value_type.to_pandas_dtype()).tolist(), kind)
    pyarrow.parquet.write_table(pa.table({"text": list("abcdef"), "embedding": values}), tmp_path / "x.parquet")
    dataset = raw(tmp_path / "x.parquet")
    assert np.array_equal(dataset.points.numpy(), vectors)
    assert dataset.columns == ("embedding[0]", "embedding[1]", "embedding[2]")
    assert pf.data.load(tmp_path / "x.parquet").standardisation.kind == "global"


def test_vectors_of_two_lengths_are_named(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"v": [[1.0, 2.0], [3.0, 4.0], [5.0]]}), tmp_path / "x.parquet")
    assert "'v' has lists of 2 numbers and in row 2 of 1" in refusal(tmp_path / "x.parquet")


def test_a_missing_vector_is_a_missing_row(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"v": [[1.0, 2.0], None, [3.0, 7.0]]}), tmp_path / "x.parquet")
    assert "the first: [1] (no value in the column 'v[0]')" in refusal(tmp_path / "x.parquet")
    assert raw(tmp_path / "x.parquet", drop_missing=True).points.tolist() == [[1, 2], [3, 7]]


def test_a_folder_of_parquet_files_is_one_table_with_its_partitions(tmp_path: Path) -> None:
    kinds = np.where(np.arange(6) % 2, "b", "a")
    pyarrow.parquet.write_to_dataset(
        pa.table({"x": POINTS[:, 0], "z": POINTS[:, 1], "kind": kinds}), tmp_path / "all", partition_cols=["kind"]
    )
    dataset = raw(tmp_path / "all", label="kind")
    assert dataset.class_counts == {"a": 3, "b": 3}
    assert sorted(dataset.points.tolist()) == sorted(POINTS.tolist())
    assert dataset.name == "all"


# -------------------------------------------------------------------- missing values


def test_the_files_of_a_folder_may_have_unlike_columns(tmp_path: Path) -> None:
    """Numbers of two types are numbers; a column that one file lacks has no values there, whichever comes first."""
    first, second = pa.table({"a": [1, 2], "b": [3.5, 4.5]}), pa.table({"b": [5, 6], "a": [1.5, 2.5]})
    pyarrow.parquet.write_table(first, tmp_path / "0.parquet")
    pyarrow.parquet.write_table(second, tmp_path / "1.parquet")
    (tmp_path / "README.md").write_text("about")
    dataset = raw(tmp_path)
    assert dataset.points.tolist() == [[1, 3.5], [2, 4.5], [1.5, 5], [2.5, 6]]
    assert dataset.notes == ("columns a, b", "left out 1 other file: .md")
    pyarrow.parquet.write_table(second.append_column("c", [[7, 8]]), tmp_path / "1.parquet")
    assert "no value in the column 'c'" in refusal(tmp_path)
    assert raw(tmp_path, drop="c").n == 4
    (tmp_path / "photo.PNG").write_bytes(b"")
    assert "holds .parquet files and images" in refusal(tmp_path, drop="c")


@pytest.mark.parametrize("form", ["{}-00000-of-00001.parquet", "{}/0000.parquet", "plain/{}.parquet"])
def test_the_splits_of_a_folder_are_not_mixed(form: str, tmp_path: Path) -> None:
    for split, value in (("train", 1.5), ("test", 7.5)):
        (tmp_path / form.format(split)).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pa.table({"a": [value, value + 1]}), tmp_path / form.format(split))
    assert "test, train are splits of the data; choose one with split='test' (--split test)" in refusal(tmp_path)
    assert raw(tmp_path, split="train").points.tolist() == [[1.5], [2.5]]
    assert "has no split 'dev'; it has test, train" in refusal(tmp_path, split="dev")


def test_columns_of_one_name_in_parquet_are_told_apart(tmp_path: Path) -> None:
    table = pa.table([pa.array([1.5, 2.5]), pa.array([3, 5])], names=["a", "a"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert raw(tmp_path / "a.parquet").columns == ("a", "a.1")
    assert raw(tmp_path / "a.parquet").points.tolist() == [[1.5, 3], [2.5, 5]]


def test_rows_without_all_values_are_left_out_with_their_labels(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,b,label\n1,2,u\n3,?,v\n,4,u\n5,6,\n7,8,v\n9,1,NA\n2,2,u\n4,4,u\n1,1,v\n")
    message = refusal(path)
    assert "the column 'b' holds '?' in row 1, and numbers elsewhere (1 such rows of 9)" in message
    assert "--drop b" in message
    dataset = raw(path, drop_missing=True)
    assert dataset.points.tolist() == [[1, 2], [7, 8], [2, 2], [4, 4], [1, 1]]
    assert [dataset.label_names[k] for k in dataset.labels] == ["u", "v", "u", "u", "v"]
    assert dataset.notes[-1] == "4 rows of 9 left out, with missing values"


def test_where_no_row_is_complete_the_emptiest_column_is_named(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,b\n1,\n3,\n,4\n")
    assert "no row is complete; most is missing in column 'b' (67%): leave it out with drop=" in refusal(
        path, drop_missing=True
    )


# -------------------------------------------------------------------- in memory


def test_a_frame_is_what_its_file_is(tmp_path: Path) -> None:
    frame = FRAME.assign(kind=pd.Categorical(["u", "v", "w"] * 10), when=pd.Timestamp("2020-01-01"))
    frame.to_parquet(tmp_path / "frame.parquet")
    ours, theirs = pf.data.from_frame(frame, "kind"), pf.data.load(tmp_path / "frame.parquet", label="kind")
    assert ours.points.equal(theirs.points)
    assert ours.labels.equal(theirs.labels)
    assert (ours.columns, ours.left_out, ours.label_names) == (theirs.columns, theirs.left_out, theirs.label_names)
    assert ours.content_hash == theirs.content_hash
    assert pf.data.from_frame(frame, columns=["height"]).columns == ("height",)
    assert pf.data.from_frame(pa.Table.from_pandas(frame), "kind").points.equal(ours.points)


KINDS: dict[str, pl.Expr] = {
    "text": pl.col("kind"),
    "categories": pl.col("kind").cast(pl.Categorical),
    "an enumeration": pl.col("kind").cast(pl.Enum(["w", "u", "v"])),
    "bytes": pl.col("kind").cast(pl.Binary),
    "numbers in text": pl.col("kind").str.replace_many(["u", "v", "w"], ["1", "2.5", "3"]),
    "some missing": pl.when(pl.col("width") > 0).then(pl.col("kind")),
}


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_of_polars_is_what_that_of_pandas_is(kind: str, chunks: int) -> None:
    """Its text comes as views, of which arrow has no category, and which few of its functions take."""
    whole = pl.DataFrame({"width": GOOD[:, 0], "height": GOOD[:, 1], "kind": ["u", "v", "w"] * 10})
    frame = whole.with_columns(KINDS[kind])
    frame = pl.concat([frame] * chunks, rechunk=False)
    same = frame.to_pandas()
    assert pf.data.from_frame(frame).columns == pf.data.from_frame(same).columns
    assert list(pf.data.from_frame(frame).left_out) == list(pf.data.from_frame(same).left_out)
    ours, theirs = (pf.data.from_frame(each, "kind", drop_missing=True) for each in (frame, same))
    assert ours.points.equal(theirs.points)
    assert ours.labels is not None
    assert theirs.labels is not None
    assert ours.labels.equal(theirs.labels)
    assert ours.label_names == theirs.label_names


def test_views_of_text_in_a_file(tmp_path: Path) -> None:
    table = pa.table({"a": GOOD[:, 0], "kind": pa.array(["u", "v", "w"] * 10, pa.string_view())})
    pa.parquet.write_table(table, tmp_path / "table.parquet")
    dataset = pf.data.load(tmp_path / "table.parquet")
    assert dataset.columns == ("a",)
    assert dataset.left_out == {"kind": "text"}


def test_a_frame_whose_columns_have_numbers_as_names() -> None:
    assert pf.data.from_frame(pd.DataFrame(GOOD), columns=1).columns == ("1",)  # type: ignore[arg-type]


def test_columns_of_a_frame_that_are_not_used_may_hold_anything() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [object(), object()], "c": ["x", "y"]})
    assert pf.data.from_frame(frame, drop="b").left_out == {"b": "dropped", "c": "text"}
    named = pf.data.from_frame(frame, "c", "a")
    assert named.columns == ("a",)
    assert named.label_names == ("x", "y")
    assert named.left_out == {"b": "not asked for"}


def test_columns_of_a_frame_that_share_a_name_are_told_apart_as_those_of_files_are() -> None:
    frame = pd.DataFrame([[1.0, 2.0], [3.0, 5.0]], columns=["a", "a"])
    assert pf.data.from_frame(frame).columns == ("a", "a.1")


def test_a_column_of_intervals_is_left_out_and_no_label() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": pd.cut([1.0, 2.0, 4.0], 2)})
    assert "interval" in pf.data.from_frame(frame).left_out["b"]
    with pytest.raises(ValueError, match=r"data.from_frame: labels must be numbers or text"):
        pf.data.from_frame(frame, "b")


def test_sparse_columns_of_a_frame_are_numbers() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": pd.arrays.SparseArray([0.0, 0.0, 3.0])})
    rows = pf.data.from_frame(frame).rows
    assert rows is not None
    assert rows.tolist() == [[1.0, 0.0], [2.0, 0.0], [4.0, 3.0]]


def test_a_column_of_matrices_says_that_it_is_no_column_of_numbers() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [np.eye(2), np.eye(2)]})
    with pytest.raises(ValueError, match=r"the column 'b' cannot be read \(Can only convert 1-dimensional.*drop='b'"):
        pf.data.from_frame(frame)


def test_arrays_are_what_their_file_is(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", POINTS)
    ours = pf.data.from_array(POINTS, list("abcabc"), dtype=f64)
    assert ours.points.equal(pf.data.load(tmp_path / "array.npy", dtype=f64).points)
    assert ours.label_names == ("a", "b", "c")
    assert ours.standardisation.kind == "global"
    assert pf.data.from_array(ours.rows, standardise="columns").standardisation.kind == "columns"


def test_what_is_no_source_says_which_function_takes_it() -> None:
    with pytest.raises(ValueError, match="from_array takes arrays"):
        pf.data.load(POINTS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from_frame takes data frames"):
        pf.data.load(FRAME)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from_array takes arrays"):
        pf.data.from_frame(POINTS)
    with pytest.raises(ValueError, match=r"the column 'a' cannot be read \(Could not convert .*drop='a'"):
        pf.data.from_frame(pd.DataFrame({"a": [1, "x", 2.5], "b": [1, 2, 3]}))
    with pytest.raises(ValueError, match=r"x must be .* got an array of <U1; convert it to numbers"):
        pf.data.from_array(["a", "b"])
    with pytest.raises(ValueError, match="standardise must be one of 'global', 'columns', 'whiten', 'none', got 'all'"):
        pf.data.from_array(POINTS, standardise="all")  # type: ignore[arg-type]


# -------------------------------------------------------------------- codes, dates and indices among the numbers


def test_leading_zeros_are_doubted(tmp_path: Path) -> None:
    frame = pd.DataFrame({"zip": ["01234", "90210", "02345"], "a": [1.5, 2.5, 5.5]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    for path in (tmp_path / "x.csv", tmp_path / "x.parquet"):
        with pytest.warns(pf.DataWarning, match=r"the column 'zip' .* leading zeros, such as '01234'.*\(--drop zip\)"):
            assert raw(path).points.tolist() == [[1234, 1.5], [90210, 2.5], [2345, 5.5]]


def test_leading_zeros_beyond_the_first_lines_are_doubted(tmp_path: Path) -> None:
    with pytest.warns(pf.DataWarning, match="leading zeros, such as '007'"):
        raw(csv_file(tmp_path, "code,a\n" + "500,1.5\n" * 300 + " 007,2\n"))


@pytest.mark.parametrize(
    ("name", "values", "what"),
    [
        ("anything", [20240101, 20240102, 19991231], "a date, year, month and day, such as 20240101"),
        ("year", [2001, 2002, 2001], "a year, such as 2001"),
        ("birth_year", [1950, 1961, 1970], "a year, such as 1950"),
        ("t", [1700000120, 1700000060, 1700000000], "a time in seconds since 1970"),
        ("anything", [1700000000, 1700000060, 1700000120], "a time in seconds since 1970"),
        ("eventTime", [1700000120000, 1700000060000, 1700000000000], "a time in milliseconds since 1970"),
    ],
)
def test_whole_numbers_that_are_dates_or_times_are_doubted(
    name: str, values: list[int], what: str, tmp_path: Path
) -> None:
    frame = pd.DataFrame({name: values, "a": [1.5, 2.5, 4.5]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    with pytest.warns(
        pf.DataWarning, match=rf"the column '{name}' is a coordinate but looks like {what}.*--drop {name}"
    ):
        assert raw(tmp_path / "x.csv").columns == (name, "a")
    assert raw(tmp_path / "x.csv", columns=[name, "a"]).columns == (name, "a")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a", [20241301, 20240102, 20240103]),
        ("a", [20240101.5, 20240102, 20240103]),
        ("a", [1700000120, 1700000060, 1700000000]),
        ("score", [2001, 2002, 2003]),
        ("year", [0.5, 1.5, 2.5]),
        ("year", [1, 2, 4]),
        ("time", [12, 15, 20]),
    ],
)
def test_other_numbers_are_no_dates(name: str, values: list[float], tmp_path: Path) -> None:
    pd.DataFrame({name: values, "b": [1.5, 2.5, 4.5]}).to_csv(tmp_path / "x.csv", index=False)
    assert raw(tmp_path / "x.csv").columns == (name, "b")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_whole_numbers_that_float64_would_round_are_doubted(suffix: str, tmp_path: Path) -> None:
    path, frame = tmp_path / f"a{suffix}", pd.DataFrame({"key": [2**53 + 1, 2**53, 7], "x": [0.5, 1.5, 4.0]})
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    with pytest.warns(pf.DataWarning, match="'key' is a coordinate but .* above 2\\^53.* such as 9007199254740993"):
        raw(path)


@pytest.mark.parametrize("code", [-999, -9999.0, -99])
def test_codes_of_missing_values_are_doubted(code: float, tmp_path: Path) -> None:
    path = csv_file(tmp_path, f"temperature,x\n3.5,1.5\n-2.5,2\n{code},3.5\n4,8\n")
    with pytest.warns(
        pf.DataWarning, match=rf"'temperature' .* 1 cell of {code:g}, as missing values are often written"
    ):
        raw(path)


def test_numbers_that_reach_down_to_such_a_code_are_numbers(tmp_path: Path) -> None:
    assert raw(csv_file(tmp_path, "a,b\n-999,-99\n-800,-60\n-3.5,7\n2,-1\n")).n == 4


def test_an_empty_last_column_is_no_row_index(tmp_path: Path) -> None:
    assert raw(csv_file(tmp_path, "a,b,\n1,2,\n3,4,\n")).left_out == {"": "empty"}
    assert raw(csv_file(tmp_path, "a,b,,\n1,2,,\n3,4,,\n")).left_out == {"": "empty", ".1": "empty"}


def test_numbers_that_are_left_out_as_an_index_are_doubted(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,b,\n1,2,7\n3,4,9\n")
    with pytest.warns(pf.DataWarning, match=r"'' is left out as a row index, by its name, but comes after 'a'"):
        assert raw(path).left_out == {"": "row index"}
    assert raw(path, drop="").left_out == {"": "dropped"}
    with pytest.warns(pf.DataWarning, match=r"holds numbers that are not whole, such as 0\.25"):
        raw(csv_file(tmp_path, ",a\n0,2\n0.25,4\n"))


def test_names_of_rows_are_left_out_whatever_they_look_like(tmp_path: Path) -> None:
    assert raw(csv_file(tmp_path, ",a\n1,2\n10%,4\n3,5\n")).left_out == {"": "row index"}


def test_two_levels_of_an_unnamed_index_are_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, 2.5]}, index=pd.MultiIndex.from_tuples([(3, 4), (5, 6)]))
    frame.to_csv(tmp_path / "x.csv")
    assert raw(tmp_path / "x.csv").columns == ("a",)


def test_a_table_of_names_alone_says_so(tmp_path: Path) -> None:
    assert "it has no rows, only the line 'a,b', which is taken for the names of columns" in refusal(
        csv_file(tmp_path, "a,b\n")
    )
