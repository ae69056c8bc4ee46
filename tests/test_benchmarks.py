"""The benchmarks run, at tiny sizes, and print what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxflow.data.fashion_mnist import INSTALLED

FOLDER = Path(__file__).parent.parent / "benchmarks"


def printed_by(name: str, *options: str) -> str:
    command = [sys.executable, str(FOLDER / name), "--quick", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


@pytest.mark.slow
def test_prox() -> None:
    output = printed_by("prox.py")
    assert "ms per query" in output
    assert "points agree to" in output
    assert "two bare GEMMs" in output


@pytest.mark.slow
def test_real_tables() -> None:
    output = printed_by("real_tables.py")
    assert "REFUSED" not in output
    assert "loaded   wine_data.csv --skip-lines 1: 178 rows; 14 of its columns: x0, x1, x2" in output
    assert "loaded   linnerud_exercise.csv: 20 rows; 3 of its columns: Chins, Situps, Jumps" in output
    assert re.search(r"^(\d+) of \1 tables loaded, with at most one option each$", output, re.MULTILINE)


@pytest.mark.slow
def test_estimates() -> None:
    lines = printed_by("estimates.py").splitlines()
    assert len(lines) >= 2 + 6
    for line in lines[2:]:
        told, took = (float(number.replace(",", "")) for number in line[62:].split()[:2])
        assert told == took == 0 or 0.75 < told / took < 1.35
        told, took = (float(number) for number in line.split()[-2:])
        assert 0.75 < told / took < 1.25


@pytest.mark.slow
def test_search() -> None:
    output = printed_by("search.py")
    assert output.count(" us a draw") == 4
    assert "of 600 draws: 0 wrong by products, 0 wrong by screening" in output


@pytest.mark.slow
def test_scaling() -> None:
    output = printed_by("scaling.py")
    assert output.count("products") + output.count("screens") >= 6
    assert "by the model, chi2 0.05" in output


@pytest.mark.slow
def test_augmentation() -> None:
    assert printed_by("augmentation.py").count("% of the saving") == 4


@pytest.mark.slow
def test_million_rows() -> None:
    (line,) = printed_by("million_rows.py", "fits", "--laws", "mixture", "--dims", "16").splitlines()[2:]
    assert re.search(r"mixture, d = 16 .* \+- 0\.\d+ ", line)
    options = ("--laws", "mixture", "--dims", "16", "--shortlist", "4")
    assert re.search(r"saves at least 9\d\.\d+%", printed_by("million_rows.py", "fits", *options))
    assert printed_by("million_rows.py", "batches", "--laws", "mixture", "--dims", "16").count(" x\n") == 5
    assert re.search(r"a step [\d.]+ s, the bare products", printed_by("million_rows.py", "steps"))
    assert re.search(r"a fit in them to .* \d+ s, 256 pairs", printed_by("million_rows.py", "images"))
    assert re.search(r"3 classes of 20 rows: .* of a stream [\d.]+ ms", printed_by("million_rows.py", "classes"))
    output = printed_by("million_rows.py", "processes")
    assert output.count("the bits of one process") == 3


@pytest.mark.slow
def test_step_noise() -> None:
    lines = printed_by("step_noise.py").splitlines()
    assert sum(" us a draw" in line for line in lines) == 4
    fits = {line[2:29].strip(): line.split() for line in lines[-4:]}
    assert list(fits) == ["antithetic", "shared directions", "independent", "independent, float32 alone"]


@pytest.mark.slow
def test_couplings() -> None:
    output = printed_by("couplings.py")
    assert "proxflow, Semidiscrete" in output
    assert "label accuracy" in output


@pytest.mark.slow
def test_adapters() -> None:
    output = printed_by("adapters.py")
    for library, shown in (("torchcfm", "rows used"), ("flow_matching", "midpoint"), ("diffusers", "pixels")):
        assert f"{library} is not installed: left out" in output or shown in output


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torchcfm", "flow_matching", "diffusers", "sbi", "bayesflow"])
def test_audited_peers(library: str) -> None:
    output = printed_by("audited_peers.py", "--only", library)
    if f"{library} is not installed: left out" not in output:
        assert "called as model(" in output
        assert re.search(r"^variance_ratio +\d+\.?\d* \[", output, re.MULTILINE)


@pytest.mark.slow
def test_variances_of_peers_while_they_train() -> None:
    output = printed_by("audited_peers.py", "--variances")
    installed = [name for name in ("torchcfm", "flow_matching") if f"{name} is not installed: left out" not in output]
    found = re.findall(r"^ +\d+ steps: \d\.\d{3} \+- \d\.\d{3} by the last weights, \d", output, re.MULTILINE)
    assert len(found) == 10 * len(installed)


@pytest.mark.slow
def test_cost_of_audits() -> None:
    lines = printed_by("audited_peers.py", "--cost").splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["d = 64", "d = 300"]


@pytest.mark.slow
def test_audits() -> None:
    output = printed_by("audits.py", "--only", "digits")
    assert re.search(r"^equivalent_batch +at least \d+ ", output, re.MULTILINE)
    assert re.search(r"^label_leakage +0\.000 +\d of 2$", printed_by("audits.py", "--coverage"), re.MULTILINE)


@pytest.mark.slow
def test_digits_few_steps() -> None:
    output = printed_by("digits_few_steps.py")
    assert output.count("energy distance") == output.count("  W2") == 7


@pytest.mark.slow
def test_gaussian_law() -> None:
    output = printed_by("gaussian_law.py")
    assert output.count("\n  the law, ") == 2
    assert output.count("\n  rows, ") == 3


@pytest.mark.slow
def test_coupled_directions() -> None:
    output = printed_by("coupled_directions.py")
    assert " of 64 directions; choice " in output
    assert output.count(" +- ") >= 3


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_few_steps() -> None:
    output = printed_by("fashion_few_steps.py")
    assert output.count("  Frechet") == output.count("  recall") == 6


@pytest.mark.slow
def test_guidance() -> None:
    output = printed_by("guidance.py", "--rows", "independent", "class-blind")
    assert output.count("Frechet") == 3
    leaks = [float(found) for found in re.findall(r"leak (-?[\d.]+)", output)]
    assert abs(leaks[0]) < 0.1 < leaks[1]


@pytest.mark.slow
def test_two_dimensional() -> None:
    output = printed_by("two_dimensional.py")
    assert output.count("NPE") == 10


@pytest.mark.slow
def test_semidiscrete() -> None:
    lines = printed_by("semidiscrete.py").splitlines()
    assert "chi2 M/N" in lines[1]
    assert [line[42:60].strip() for line in lines[2:]] == ["averaged gradient", "damped Newton"]


@pytest.mark.slow
def test_solvers(tmp_path: Path) -> None:
    picture = tmp_path / "solvers.png"
    output = printed_by("solvers.py", "--figure", str(picture))
    last = next(line for line in output.splitlines() if line.startswith("  time to chi2 <= 0.1"))
    assert re.search(r": proxflow [\d.e-]+ s \(tol", last)
    for peer in ("OTT", "POT", "Adam"):  # each reaches it: heights are taken from its potentials by its convention
        assert re.search(rf"{peer}'s best [\d.e-]+ s, [\d.e+-]+ x ", last)
    limit = re.search(r"POT +its default arguments: DRAG .* ([\d.]+)$", output, re.MULTILINE)
    assert limit is not None
    assert float(limit[1]) < 2
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_symmetry() -> None:
    output = printed_by("symmetry.py")
    assert re.search(r"images as rows +80 ", output)
    assert re.search(r"symmetry=HorizontalFlip +40 ", output)


@pytest.mark.slow
def test_fit_certificates() -> None:
    assert ", 0 converged and wrong" in printed_by("fit_certificates.py")
    assert re.search(r"digits +0.015 +\| +0.0", printed_by("fit_certificates.py", "--stops", "2"))


@pytest.mark.slow
def test_minibatch_rates() -> None:
    output = printed_by("minibatch_rates.py")
    assert "bias C_n - W2^2" in output
    assert "excess ~ n^-" in output


@pytest.mark.slow
def test_trained_against_bound() -> None:
    output = printed_by("trained_against_bound.py")
    rows = [line.split(" +- ") for line in output.splitlines() if line.count(" +- ") == 3]
    assert len(rows) == 12
    for row in rows:
        own = float(row[2].split()[-1])
        whole, most = float(row[1].split()[-1]), float(row[3].split()[-1])
        assert whole <= 1.2 * most
        assert own > 0
    assert all(float(row[0].split()[-1]) == 0 for row in rows[-3:])  # the population field is v itself


@pytest.mark.slow
def test_excess_and_quality() -> None:
    output = printed_by("excess_and_quality.py")
    assert "rank correlation" in output
    assert output.count("batches of") == 2


@pytest.mark.slow
def test_terminal_figures() -> None:
    output = printed_by("terminal_figures.py")
    assert output.count("normal ") >= 6
    assert "extreme eigenvalues" in output


@pytest.mark.slow
def test_local_dimension() -> None:
    output = printed_by("local_dimension.py")
    assert "sphere S^16 in R^64" in output
    assert "dimension against scale" in output
    assert "circle + 3-d ball" in output
    assert "within 3 standard errors" in output


@pytest.mark.slow
def test_likelihood() -> None:
    output = printed_by("likelihood.py")
    assert output.count("proxflow 0") == 2
    assert "bits off" in output


@pytest.mark.slow
def test_noise_of_rows() -> None:
    output = printed_by("noise_of_rows.py")
    assert output.count(" median ") == 4
    assert "bytes a pair" in output


def test_gpu(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    printed_by("gpu.py", "--device", "cpu", "--out", str(path))
    text = path.read_text()
    assert "**No GPU was measured.**" in text
    assert text.count("not measured on a GPU") == 2
    assert re.findall(r"^## (\d)\. ", text, re.MULTILINE) == ["1", "2", "3", "4", "5"]
    assert "failed with" not in text
    assert "left out" not in text
    answers = re.findall(r"^\| B = .*% \|.*\| (\d+) \| [^|]* \|$", text, re.MULTILINE)
    assert answers == ["0", "0"]
    inflation, count, chi2, draws = re.findall(r"= 1\.2 x ([\d.]+) .* x ([\d,]+) / ([\d.]+) = ([\d,]+)", text)[0]
    expected = 1.2 * float(inflation) * float(count.replace(",", "")) / float(chi2)
    assert float(draws.replace(",", "")) == pytest.approx(expected, rel=1e-3)
    assert text.count("| 0% | yes | 0 |") == 2  # velocities: the CPU beside itself


@pytest.mark.slow
def test_gpu_says_what_its_budget_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    printed_by("gpu.py", "--device", "cpu", "--budget", "1e-3", "--out", str(path))
    text = path.read_text()
    for what in ("copy", "A fit of images", "Steps on millions of rows", "couplings", "velocities"):
        assert f"- {what}: left out, the budget was used up\n" in text
