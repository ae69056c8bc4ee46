"""Tables from the command line: what is read is said and recorded, and samples come back as tables."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

import proxflow as pf
from tests.cli.commands import call, refusal

ROWS = 60


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two measures in unlike units, a counter, text, and two rows without a value."""
    generator = np.random.default_rng(0)
    kind = np.arange(ROWS) % 2
    frame = pd.DataFrame(
        {
            "id": range(ROWS),
            "mass, g": 5_000_000 + 800 * kind + generator.normal(size=ROWS).round(2),
            "bill": 40 - 3 * kind + generator.normal(size=ROWS),
            "kind": np.where(kind, "b", "a"),
        }
    )
    frame.loc[[3, 8], "bill"] = np.nan
    frame.to_csv(tmp_path / "animals.csv", index=False, sep=";")
    return tmp_path / "animals.csv"


def rows_of(path: Path) -> set[tuple[float, ...]]:
    return set(
        map(
            tuple,
            pd.read_csv(path, sep=";", float_precision="round_trip").dropna()[["mass, g", "bill"]].to_numpy().tolist(),
        )
    )


def test_what_is_read_is_said_recorded_and_sampled(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--drop-missing" in refusal(capsys, "fit", table, "--out", "run")
    assert call("fit", table, "--drop-missing", "--out", "run") == 0
    assert capsys.readouterr().err.splitlines() == [
        'animals: columns "mass, g", bill; left out: id (counts 0..N-1), kind (text)',
        "animals: 2 rows of 60 left out, with missing values",
    ]
    data = json.loads(Path("run/run.json").read_text())["data"]
    assert data["columns"] == ["mass, g", "bill"]
    assert data["left_out"] == {"id": "counts 0..N-1", "kind": "text"}
    assert data["standardise"] == "columns"

    assert call("sample", "run", "--count", 30, "--out", "drawn.csv") == 0
    drawn = pyarrow.csv.read_csv("drawn.csv")
    assert drawn.column_names == ["mass, g", "bill"]
    assert set(map(tuple, drawn.to_pandas().to_numpy().tolist())) <= rows_of(table)  # digit by digit
    assert call("sample", "run", "--count", 30, "--out", "drawn.parquet") == 0
    assert pyarrow.parquet.read_table("drawn.parquet").equals(drawn)
    assert call("sample", "run", "--count", 30, "--out", "drawn.npy") == 0
    assert np.array_equal(np.load("drawn.npy"), drawn.to_pandas().to_numpy())
    assert not Path("run/samples.npy").exists()


def test_a_file_is_not_silently_replaced(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("fit", table, "--drop-missing", "--columns", '"mass, g",bill', "--out", "run") == 0
    assert call("sample", "run", "--count", 5, "--out", "x.csv") == 0
    before = Path("x.csv").read_bytes()
    capsys.readouterr()
    assert "x.csv is already there" in refusal(capsys, "sample", "run", "--seed", 1, "--out", "x.csv")
    assert Path("x.csv").read_bytes() == before
    assert call("sample", "run", "--seed", 1, "--out", "x.csv", "--overwrite") == 0
    assert Path("x.csv").read_bytes() != before
    capsys.readouterr()
    assert "samples are written as .npy, .csv, .parquet" in refusal(capsys, "sample", "run", "--out", "x.txt")
    assert "there is no folder nowhere" in refusal(capsys, "sample", "run", "--out", "nowhere/x.csv")


@pytest.mark.parametrize("kind", ["global", "columns", "whiten", "none"])
def test_a_standardisation_is_chosen_warned_of_and_undone(
    kind: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("fit", table, "--drop-missing", "--standardise", kind, "--out", "run") == 0
    assert ("warning: animals: one scale for all columns" in capsys.readouterr().err) == (kind == "global")
    assert json.loads(Path("run/run.json").read_text())["arguments"]["standardise"] == kind
    assert pf.load("run/standardisation.safetensors").kind == kind
    assert call("sample", "run", "--count", 20) == 0
    assert set(map(tuple, np.load("run/samples.npy").tolist())) <= rows_of(table)


def test_images_are_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(6, 2, 2)))
    assert call("fit", "x.npy", "--out", "run") == 0
    capsys.readouterr()
    assert "points of 2 x 2 are no rows of a table; give a .npy file" in refusal(
        capsys, "sample", "run", "--out", "x.csv"
    )


def test_fractions_are_labels_but_no_classes_to_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.csv").write_text("a,day\n" + "".join(f"{i * i},{i % 3 + 0.5}\n" for i in range(9)))
    message = refusal_after_notes(capsys, "train", "x.csv", "--label", "day", "--out", "run")
    assert "x has labels such as 0.5" in message
    assert "JointConditional" in message


def refusal_after_notes(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert call(*arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_columns_of_one_name_are_all_sampled(tmp_path: Path) -> None:
    """Names of genes need not be unique, and a column that is lost would be missed by nobody."""
    rows = np.random.default_rng(0).normal(size=(12, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata, about the names
        anndata.AnnData(rows, var=pd.DataFrame(index=["actin", "actin", "myosin"])).write_h5ad(tmp_path / "cells.h5ad")
    assert call("fit", tmp_path / "cells.h5ad", "--out", tmp_path / "run") == 0
    for name in ("drawn.csv", "drawn.parquet"):
        assert call("sample", tmp_path / "run", "--count", 5, "--out", tmp_path / name) == 0
        drawn = pf.data.load(tmp_path / name, standardise="none", dtype=torch.float64)
        assert drawn.columns == ("actin", "actin.1", "myosin")
        assert set(map(tuple, drawn.points.tolist())) <= set(map(tuple, rows.tolist()))
