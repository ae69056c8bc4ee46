"""Tables that people really have: every text and parquet table inside packages that are installed here, read by
data.load with no option, or with the one that its refusal names.

Run: python benchmarks/real_tables.py [--quick] [folder ...]

Each line says how many rows and which columns were used, and which were left out and why. Packages that are looked
through: scikit-learn, matplotlib, palmerpenguins, statsmodels and vega_datasets, as far as they are installed; folders
that are given are looked through too. --quick reads the files under 50 kB alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import warnings
from pathlib import Path
from typing import Any

import proxflow as pf

PACKAGES = ("sklearn/datasets/data", "matplotlib/mpl-data/sample_data", "palmerpenguins/data", "statsmodels/datasets",
            "vega_datasets/_data")  # fmt: skip
KINDS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
SMALL = 50_000  # bytes
SHOWN = 5  # names on a line
OPTION = re.compile(r"\b(drop_missing|skip_lines|encoding|sep|drop|columns|decimal|label)=('[^']*'|True|\d+)")


def folders(given: list[Path]) -> list[Path]:
    """Where to look."""
    found = []
    for package in PACKAGES:
        name, _, inside = package.partition("/")
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found.append(Path(spec.origin).parent / inside)
    return found + given


def tables(folder: Path) -> list[Path]:
    """The tables in a folder."""
    return sorted(path for path in folder.rglob("*") if path.name.lower().endswith(KINDS))


def option_named(message: str) -> dict[str, Any]:
    """The first option that a refusal names."""
    found = OPTION.search(message)
    if found is None:
        return {}
    value = found[2]
    return {found[1]: True if value == "True" else int(value) if value.isdigit() else value.strip("'")}


def read(path: Path) -> tuple[pf.data.Dataset, dict[str, Any]]:
    """The data set of a file, with at most one option."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.DataWarning)  # the lines say which columns are used
        try:
            return pf.data.load(path), {}
        except ValueError as error:
            option = option_named(str(error))
            if not option:
                raise
            return pf.data.load(path, **option), option


def line(path: Path) -> str:
    """What became of a table."""
    try:
        data, option = read(path)
    except ValueError as error:
        return f"REFUSED  {path.name}: {str(error).removeprefix(str(path))}"
    used = ", ".join((data.columns or ())[:SHOWN]) + (", ..." if len(data.columns or ()) > SHOWN else "")
    left = ", ".join(f"{name or repr('')} ({why})" for name, why in data.left_out.items())
    given = "".join(
        f" --{key.replace('_', '-')}" + ("" if value is True else f" {value}") for key, value in option.items()
    )
    labels = f"; {len(data.class_counts)} classes" if data.class_counts else ""
    reasons = f"; left out: {left}" if left else ""
    return f"loaded   {path.name}{given}: {data.n:,} rows; {data.dim} of its columns: {used}{labels}{reasons}"


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description="Read every table of the packages that are installed.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("folders", nargs="*", type=Path)
    arguments = parser.parse_args()
    lines = []
    for folder in folders(arguments.folders):
        for path in tables(folder):
            if not arguments.quick or path.stat().st_size < SMALL:
                lines.append(line(path))
                print(lines[-1], flush=True)
    loaded = sum(text.startswith("loaded") for text in lines)
    print(f"{loaded} of {len(lines)} tables loaded, with at most one option each")


if __name__ == "__main__":
    main()
