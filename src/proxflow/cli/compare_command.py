"""proxflow compare: runs side by side on one page."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxflow.cli.options import Output, free_file, with_groups

if TYPE_CHECKING:
    from proxflow.cli.run_folder import RunFolder
    from proxflow.report.run_comparison import Comparison

__all__ = ["compare"]


@with_groups
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders of `proxflow train`, or all of `audit`.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("compare.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out.")] = False,
    *,
    output: Output,
) -> None:
    """Compare trained networks, or audits, on one page: what differs, every figure with its error, and which is best.

    A run is called best where every other is farther off by more than two combined standard errors. Runs on other
    data, or measured otherwise, are shown but not ranked.

    Example: `proxflow compare runs/independent runs/minibatch --out couplings.html`
    """
    folders = _different(runs)
    from proxflow.cli.run_folder import RunFolder
    from proxflow.report import render_comparison_page
    from proxflow.storage import write_atomically

    comparison = _compared([RunFolder(folder) for folder in folders])
    page = free_file(out, overwrite=overwrite)
    given = [str(folder) for folder in folders]
    command = shlex.join(["proxflow", "compare", *given, "--out", str(out)])
    write_atomically(page, render_comparison_page(comparison, given, command).encode())
    _print(output, comparison)
    output.say(f"page: {page}")
    output.record(runs=given, report=str(page), **comparison.as_record)


def _different(runs: list[Path]) -> list[Path]:
    """At least two folders, none of them twice.

    Raises:
        ValueError: there are fewer, or one is given twice.
    """
    folders = [run.expanduser() for run in runs]
    for k, folder in enumerate(folders):
        if folder.resolve() in [earlier.resolve() for earlier in folders[:k]]:
            raise ValueError(f"{folder} is given twice; give different runs")
    if len(folders) < 2:
        raise ValueError(f"compare needs two runs or more, got only {folders[0]}; its own page is report.html in it")
    return folders


def _compared(folders: list[RunFolder]) -> Comparison:
    """The comparison of runs of one command.

    Raises:
        ValueError: a folder holds no run, one of another command, or a damaged record; or the commands are different.
    """
    from proxflow.report.compared_audits import compared_audits
    from proxflow.report.compared_training import compared_training

    compare_records = {"train": compared_training, "audit": compared_audits}
    kinds = [folder.facts.command for folder in folders]
    for folder, kind in zip(folders, kinds, strict=True):
        if kind not in compare_records:
            raise ValueError(
                f"{folder.path} is a run of proxflow {kind}; compare takes runs of proxflow train, or of proxflow audit"
            )
        if kind != kinds[0]:
            raise ValueError(
                f"{folder.path} is a run of proxflow {kind} and {folders[0].path} of proxflow {kinds[0]}; give runs of "
                "one command"
            )
    compare_one_kind, names = compare_records[kinds[0]], _names([folder.path for folder in folders])
    for name, folder in zip(names, folders, strict=True):
        with folder.reading():
            compare_one_kind([name], [folder.record])
    return compare_one_kind(names, [folder.record for folder in folders])


def _names(folders: list[Path]) -> list[str]:
    """The last parts of paths, as many as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    count = next(n for n in range(1, max(map(len, parts)) + 1) if len({own[-n:] for own in parts}) == len(parts))
    return ["/".join(own[-count:]) for own in parts]


def _print(output: Output, comparison: Comparison) -> None:
    from proxflow.report.run_comparison import joined

    names = comparison.names
    rows = [(name, *values, "") for name, values in (comparison.differing | dict(comparison.facts)).items()]
    for figure in comparison.figures:
        cells = ["not measured" if one is None else one.in_words.replace("±", "+-") for one in figure.measured]
        said = "" if comparison.obstacles else figure.in_words(names)
        rows.append((figure.name, *cells, said and f"  {said}"))
    widths = [max(len(row[k]) for row in [("", *names, ""), *rows]) for k in range(len(names) + 1)]
    output.say(comparison.title)
    for row in [("", *names, "" if comparison.obstacles else "  best"), *rows]:
        cells = [f"{cell:>{width}s}" for cell, width in zip(row[1:-1], widths[1:], strict=True)]
        output.say(f"  {row[0]:<{widths[0]}s}  {'  '.join(cells)}{row[-1]}".rstrip())
    output.say(comparison.verdict)
    for caution, of_runs in comparison.cautions.items():
        output.say(f"  {joined(of_runs)}: {caution}")
