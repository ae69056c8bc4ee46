"""Saving and loading: bit by bit, never half a file, and clear refusals."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn, Self

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import proxflow as pf
from proxflow import storage
from proxflow.data import Standardisation
from proxflow.measures import Empirical, Gaussian, Uniform
from proxflow.potentials import Ball, Discrete, Entropic, Potential, Product, Quadratic, Quantile, Radial
from proxflow.schedules import Cosine, Linear, Polynomial
from tests.laws.cases import STORED

f64 = torch.float64


def blurred_rows() -> Empirical:
    g = torch.Generator().manual_seed(8)
    return Empirical(torch.randn(7, 2, generator=g), torch.rand(7, generator=g), 0.1)


MORE: dict[str, Callable[[], Potential]] = {
    "float32 atoms": lambda: Discrete(
        torch.randn(37, 3, generator=torch.Generator().manual_seed(4)),
        torch.randn(37, generator=torch.Generator().manual_seed(5)),
        torch.rand(37, generator=torch.Generator().manual_seed(6)) + 0.1,
        max_iterations=77,
    ),
    "float32 gaussian": lambda: Quadratic(torch.ones(2), torch.eye(2)),
    "float32 rotation": lambda: Ball(2, 0.1).rotate(torch.tensor([[0.0, -1.0], [1.0, 0.0]])),
    "ball with a source": lambda: Ball(2, source=Gaussian(2)),
    "float32 entropic": lambda: Entropic(torch.eye(3), torch.rand(3), 0.7, torch.tensor([0.5, 0.3, 0.2])),
    "entropic with caps": lambda: Entropic(torch.eye(3), torch.zeros(3), 1 / 3, max_iterations=17, max_memory=2**20),
    "float32 line": lambda: Quantile((torch.tensor([0.0, 0.3, 0.3, 1.0]), torch.tensor([-1.0, -1.0, 0.1, 2.0]))),
    "float32 shells": lambda: Radial(2, (torch.tensor([0.0, 0.4, 1.0]), torch.tensor([0.1, 0.7, 0.7]))),
    "atoms from a box": lambda: Discrete(torch.eye(2), torch.zeros(2), source=Uniform(2, -0.1, 0.3)),
    "atoms from data": lambda: Discrete(torch.eye(2), torch.zeros(2), source=blurred_rows()),
}
POTENTIALS: dict[str, Callable[[], Potential]] = STORED | MORE
SCHEDULES = [Linear(), Cosine(), Polynomial(2.5), Polynomial(1 / 3)]


def same(first: Any, second: Any) -> None:
    """Equal in class, structure, dtype and every bit."""
    assert type(first) is type(second)
    if isinstance(first, Tensor):
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        assert first.contiguous().numpy().tobytes() == second.contiguous().numpy().tobytes()
    elif isinstance(first, float):
        assert first.hex() == second.hex()
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            same(one, other)
    elif isinstance(first, nn.Module):
        same(list(first.state_dict().keys()), list(second.state_dict().keys()))
        same(list(first.state_dict().values()), list(second.state_dict().values()))
        module: Any = first
        ours, theirs = module.constructor_arguments(), second.constructor_arguments()
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            same(value, theirs[key])
    elif isinstance(first, Uniform | Empirical):
        for key, value in vars(first).items():
            same(value, vars(second)[key])
    elif dataclasses.is_dataclass(first):
        for field in dataclasses.fields(first):
            same(getattr(first, field.name), getattr(second, field.name))
    else:
        assert first == second


def returned(obj: object, tmp_path: Path) -> Any:
    pf.save(obj, tmp_path / "object.safetensors")
    return pf.load(tmp_path / "object.safetensors")


def atoms(count: int, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0), dtype=dtype)


FITS: dict[str, Callable[[], pf.semidiscrete.Fit]] = {
    "one atom": lambda: pf.semidiscrete.fit(torch.ones(1, 3, dtype=f64)),
    "quantiles": lambda: pf.semidiscrete.fit(atoms(20, 1, f64), seed=7),
    "damped Newton": lambda: pf.semidiscrete.fit(atoms(20, 2).repeat(2, 1), seed=7),
    "averaged gradient": lambda: pf.semidiscrete.fit(atoms(20, 5).repeat(2, 1), tol=0.5, max_samples=3000, seed=7),
    "symmetric": lambda: pf.semidiscrete.fit(
        atoms(20, 6), symmetry=pf.symmetry.HorizontalFlip((2, 3)), tol=0.5, max_samples=3000
    ),
    "entropic": lambda: pf.semidiscrete.fit(atoms(20, 2), epsilon=0.1, tol=0.5, max_samples=3000),
    "box to atoms": lambda: pf.semidiscrete.fit(atoms(5, 2), source=Uniform(2), tol=0.5, max_samples=3000),
}


# -------------------------------------------------------------------- back and forth


@pytest.mark.parametrize("case", POTENTIALS)
def test_potentials_come_back_bit_by_bit(case: str, tmp_path: Path) -> None:
    potential = POTENTIALS[case]()
    again = returned(potential, tmp_path)
    same(potential, again)
    dtype = next((buffer.dtype for buffer in potential.buffers()), f64)
    x = torch.randn(9, potential.dim, generator=torch.Generator().manual_seed(1), dtype=dtype)
    torch.testing.assert_close(again.decompose(x, 0.4, 0.6).point, potential.decompose(x, 0.4, 0.6).point)


def test_weights_come_back_as_they_were_and_not_normalised_again(tmp_path: Path) -> None:
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        potential = Discrete(torch.randn(37, 2, generator=g), torch.randn(37, generator=g), torch.rand(37, generator=g))
        same(potential, returned(potential, tmp_path))


@pytest.mark.parametrize("on_failure", ["raise", "nan"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_flows_come_back_bit_by_bit(schedule: pf.schedules.Schedule, on_failure: str, tmp_path: Path) -> None:
    flow = pf.ProximalFlow(STORED["atoms"](), schedule, on_failure=on_failure)
    again = returned(flow, tmp_path)
    same(flow, again)
    x = torch.randn(9, flow.dim, generator=torch.Generator().manual_seed(1), dtype=f64)
    same(flow.velocity(0.7, x), again.velocity(0.7, x))


@pytest.mark.parametrize("case", FITS)
def test_a_fit_comes_back_bit_by_bit(case: str, tmp_path: Path) -> None:
    fitted = FITS[case]()
    again = returned(fitted, tmp_path)
    same(fitted, again)
    assert fitted.method == ("averaged gradient" if case in ("symmetric", "entropic", "box to atoms") else case)
    assert again.cell_mass.dtype == f64
    assert again.atom_of_row.dtype == torch.int64


def test_an_unfinished_fit_comes_back(tmp_path: Path) -> None:
    with pytest.warns(pf.ConvergenceWarning):
        unfinished = pf.semidiscrete.fit(atoms(20, 4), max_samples=1)
    same(unfinished, returned(unfinished, tmp_path))


@pytest.mark.parametrize(("dim", "state"), [(2, "ExactState"), (4, "StochasticState")])
def test_a_checkpoint_comes_back_bit_by_bit(dim: int, state: str, tmp_path: Path) -> None:
    pf.semidiscrete.fit(atoms(20, dim), tol=0.5, max_samples=3000, checkpoint=tmp_path / "checkpoint")
    checkpoint = pf.load(tmp_path / "checkpoint")
    assert type(checkpoint.state).__name__ == state
    same(checkpoint, returned(checkpoint, tmp_path))


SOURCES = [Gaussian(3), Uniform(2, -0.1, 1 / 3), Empirical(atoms(4, 3)), Empirical(atoms(4, 3, f64)), blurred_rows()]


@pytest.mark.parametrize("value", SCHEDULES, ids=str)
def test_schedules_come_back(value: pf.schedules.Schedule, tmp_path: Path) -> None:
    same(value, returned(value, tmp_path))


@pytest.mark.parametrize("value", SOURCES, ids=str)
def test_sources_come_back_and_draw_the_same(value: Empirical | Gaussian | Uniform, tmp_path: Path) -> None:
    again = returned(value, tmp_path)
    same(value, again)
    draws = [source.sample(99, generator=torch.Generator().manual_seed(3)) for source in (value, again)]
    same(*draws)


STORED_NAMES = """
AffineResidual Averages Ball Checkpoint Cosine Discrete Ellipsoid Empirical Entropic Evaluation ExactState Fit Gaussian
IndependentField Iterate Linear LocalDimension MLP MinibatchConvergence NewtonState NoiseAndCondition Perturbation
Polynomial Product ProximalFlow Quadratic Quantile Radial Rate ResidualMLP Rotated Scaled Standardisation
StochasticState Tally TerminalSpectrum TerminalStudy TrainRecord TrainingState UNet Uniform
"""  # in files that people have: each must be found by a process that has used nothing but ``load``


def test_every_class_that_a_file_may_name_is_found_without_its_package_imported_first() -> None:
    names = STORED_NAMES.split()
    code = "import sys; from proxflow.storage import class_named; print([class_named(n) for n in sys.argv[1:]])"
    found = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True).stdout
    assert [re.search(rf"\.{name}'>", found) is not None for name in names] == [True] * len(names)


def test_a_file_names_proxflow_classes_as_older_versions_did(tmp_path: Path) -> None:
    pf.save(pf.ProximalFlow(STORED["atoms"]()), tmp_path / "x")
    with safetensors.safe_open(tmp_path / "x", framework="pt") as file:
        header = json.loads(file.metadata()["proxflow"])
    assert header["object"]["class"] == "ProximalFlow"
    assert header["object"]["arguments"]["schedule"]["class"] == "Linear"


OWN_MODULE = """
import torch
import proxflow as pf

@pf.storable
class HalfBall(pf.potentials.Ball):
    def __init__(self, dim, share):
        super().__init__(dim, share / 2)
        self.share = share

    def constructor_arguments(self):
        return {"dim": self.dim, "share": self.share}

@pf.storable
class Layer(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def constructor_arguments(self):
        return {"weight": self.weight.detach()}

    def forward(self, t, x):
        return x @ self.weight
"""


def test_classes_of_your_own_come_back_inside_those_of_proxflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_classes.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_classes")
    flow = pf.ProximalFlow(own.HalfBall(3, 1.5).rotate(torch.eye(3, dtype=f64)))
    again = returned(flow, tmp_path)
    x = torch.randn(5, 3, dtype=f64)
    same(flow.velocity(0.5, x), again.velocity(0.5, x))
    points = torch.randn(50, 2)
    network = pf.matching.AffineResidual.fit(own.Layer(torch.eye(2)), pf.couplings.Independent(points))
    with torch.no_grad():
        same(returned(network, tmp_path)(0.5, points), network(0.5, points))


def test_a_file_does_not_make_load_import_a_module(tmp_path: Path) -> None:
    """A class of somebody's own is found if it is imported; its file names the module, and no code of it is run."""
    (tmp_path / "own_classes.py").write_text(OWN_MODULE)
    code = "import own_classes, proxflow as pf; pf.save(own_classes.HalfBall(2, 1.0), 'ball')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": "."})
    sys.modules.pop("own_classes", None)
    storage._CLASSES.pop("own_classes.HalfBall", None)
    with pytest.raises(ValueError, match=r"holds a 'own_classes.HalfBall'.*import own_classes first"):
        pf.load(tmp_path / "ball")
    assert "own_classes" not in sys.modules


def test_a_module_that_does_not_say_how_it_is_built_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Plain is a module and needs a method constructor_arguments"):

        @pf.storable
        class Plain(nn.Module):
            pass


def test_one_name_of_proxflow_is_one_class() -> None:
    impostor = type("Ball", (), {"__module__": "proxflow.elsewhere"})
    with pytest.raises(TypeError, match=r"Ball is a class of proxflow.potentials.convex_body already"):
        pf.storable(impostor)


@pytest.mark.parametrize("scale", [1.0, 0.1, 5e-324, math.inf])
def test_a_standardisation_comes_back(scale: float, tmp_path: Path) -> None:
    standardisation = Standardisation(torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=f64), scale)
    same(standardisation, returned(standardisation, tmp_path))


def test_gradients_are_left_behind(tmp_path: Path) -> None:
    heights = torch.zeros(3, requires_grad=True)
    again = returned(Discrete(torch.eye(3), heights), tmp_path)
    assert not again.heights.requires_grad
    assert torch.equal(again.heights, heights.detach())


def test_what_is_loaded_does_not_hang_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    pf.save(STORED["atoms"](), path)
    loaded = pf.load(path)
    expected = loaded.points.clone()
    pf.save(STORED["grid"](), path)
    assert torch.equal(loaded.points, expected)


def test_text_and_path_objects_name_files(tmp_path: Path) -> None:
    pf.save(Linear(), str(tmp_path / "x"))
    assert pf.load(str(tmp_path / "x")) == pf.load(tmp_path / "x") == Linear()


def test_saving_leaves_the_object_and_only_the_file(tmp_path: Path) -> None:
    potential = STORED["atoms"]()
    state = {key: value.clone() for key, value in potential.state_dict().items()}
    pf.save(potential, tmp_path / "x")
    for key, value in potential.state_dict().items():
        assert torch.equal(value, state[key])
    assert os.listdir(tmp_path) == ["x"]


def test_files_carry_the_permissions_of_new_files(tmp_path: Path) -> None:
    pf.save(Linear(), tmp_path / "x")
    (tmp_path / "y").touch()
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


# -------------------------------------------------------------------- what cannot be stored


class Homemade(Potential):
    def __init__(self) -> None:
        super().__init__(2)

    def value(self, y: Tensor) -> Tensor:
        return y.sum(1)

    def conjugate(self, u: Tensor) -> Tensor:
        return u.sum(1)

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> NoReturn:
        raise NotImplementedError

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> NoReturn:
        raise NotImplementedError

    def constructor_arguments(self) -> dict[str, object]:
        return {}


class Ellipse(Ball):
    """A subclass of a storable class is not storable by that class's name."""


class OwnSource:
    dim = 2
    rotation_invariant = True

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return torch.rand(n, 2, generator=generator, dtype=dtype, device=device)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Homemade(), "Homemade"),
        (Ellipse(2), "Ellipse"),
        (Product([Homemade(), Ball(2)]), "Homemade"),
        (pf.ProximalFlow(Homemade()), "Homemade"),
        (Ball(2, source=OwnSource()), "OwnSource"),
        (nn.Linear(2, 2), "Linear"),
        ({1, 2}, "set"),
        (lambda: 0, "function"),
    ],
)
def test_a_foreign_class_is_named(value: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(
        TypeError,
        match=rf"{named}.*cannot be stored; (storable are|decorate its class with proxflow.storable|of a coupling)",
    ):
        pf.save(value, tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is no folder {tmp_path / 'none'}; make it first")):
        pf.save(Linear(), tmp_path / "none" / "x.safetensors")


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="x"):
        pf.save(Linear(), tmp_path / "x")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").is_dir()


# -------------------------------------------------------------------- interrupted writes


class Broken:
    """A file that writes half and then fails."""

    def __init__(self, file: IO[bytes], error: BaseException) -> None:
        self.file, self.error = file, error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        raise self.error


FAILURES = [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()]


@pytest.mark.parametrize("stage", ["open", "replace"])
def test_an_error_of_writing_names_the_file_that_was_meant(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_more: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(storage if stage == "open" else os, stage, refuse, raising=False)
    with pytest.raises(PermissionError) as caught:
        pf.save(Polynomial(3), tmp_path / "x.safetensors")
    assert str(caught.value) == f"[Errno 13] Permission denied: '{tmp_path / 'x.safetensors'}'"


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "x.safetensors"
    link.symlink_to(tmp_path / "far" / "y.safetensors")
    for degree in (2, 3):  # a file that is not there yet, and one that is
        pf.save(Polynomial(degree), link)
        assert link.is_symlink()
        assert pf.load(tmp_path / "far" / "y.safetensors") == pf.load(link) == Polynomial(degree)
    assert len(list((tmp_path / "far").iterdir())) == 1
    link.unlink()
    link.symlink_to(tmp_path / "gone" / "y.safetensors")
    with pytest.raises(FileNotFoundError, match=f"^{link} cannot be written: there is no folder {tmp_path / 'gone'};"):
        pf.save(Polynomial(2), link)


@pytest.mark.parametrize("stage", ["write", "fsync"])
def test_a_full_disk_is_said_with_the_file(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, stage, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left on device") as caught:
        pf.save(Polynomial(3), tmp_path / "x.safetensors")
    assert caught.value.filename == str(tmp_path / "x.safetensors")


def fail(monkeypatch: pytest.MonkeyPatch, stage: str, error: BaseException) -> None:
    def raising(*_args: object, **_options: object) -> NoReturn:
        raise error

    def opening(path: Path, mode: str) -> Broken:
        return Broken(open(path, mode), error)

    if stage == "write":
        monkeypatch.setattr(storage, "open", opening, raising=False)
    else:
        monkeypatch.setattr(os, stage, raising)


@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", FAILURES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("existing", [True, False], ids=["over an old file", "anew"])
def test_a_failed_write_leaves_what_was_there(
    existing: bool, error: BaseException, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    if existing:
        pf.save(Polynomial(3), path)
    before = path.read_bytes() if existing else None
    with monkeypatch.context() as patched:
        fail(patched, stage, error)
        with pytest.raises(type(error)):
            pf.save(MORE["float32 atoms"](), path)
    assert os.listdir(tmp_path) == (["x.safetensors"] if existing else [])
    if existing:
        assert path.read_bytes() == before
        assert pf.load(path) == Polynomial(3)
    pf.save(MORE["float32 atoms"](), path)
    same(pf.load(path), MORE["float32 atoms"]())


# -------------------------------------------------------------------- damaged and foreign files


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the description inside a file."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["proxflow"])
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    change(header)
    save_file(tensors, path, metadata={"proxflow": json.dumps(header)})


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "stored.safetensors"
    pf.save(STORED["atoms"](), path)
    return path


def test_the_file_is_plain_safetensors_with_a_description(stored: Path) -> None:
    with safetensors.safe_open(stored, framework="pt") as file:
        header = json.loads(file.metadata()["proxflow"])
        assert torch.equal(file.get_tensor("root.points"), STORED["atoms"]().get_buffer("points"))
    assert header["format_version"] == 1
    assert header["proxflow"] == pf.__version__
    assert header["object"]["class"] == "Discrete"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none"))):
        pf.load(tmp_path / "none")


def test_a_folder_names_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=r"is a folder.*none is there"):
        pf.load(tmp_path)
    pf.save(pf.schedules.Linear(), tmp_path / "schedule.safetensors")
    with pytest.raises(IsADirectoryError, match=r"one of its \.safetensors files \(schedule\.safetensors\)"):
        pf.load(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(kept: float, stored: Path) -> None:
    content = stored.read_bytes()
    stored.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ValueError, match=re.escape(f"{stored} is truncated or not a safetensors file")):
        pf.load(stored)


@pytest.mark.parametrize("content", [b"hello world, this is no such file", b"\x93NUMPY" * 40, b"{}" * 99])
def test_another_kind_of_file_is_refused(content: bytes, stored: Path) -> None:
    stored.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{stored} is truncated or not a safetensors file")):
        pf.load(stored)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_of_another_program_are_refused(metadata: dict[str, Any], stored: Path) -> None:
    save_file({"weight": torch.ones(3)}, stored, metadata=metadata)
    with pytest.raises(ValueError, match=re.escape(f"{stored} is not a proxflow file")):
        pf.load(stored)


def test_a_newer_format_says_who_wrote_it(stored: Path) -> None:
    rewrite(stored, lambda header: header.update(format_version=2, proxflow="9.9"))
    with pytest.raises(ValueError, match=r"has format 2, written by proxflow 9\.9; .*up to 1: upgrade proxflow"):
        pf.load(stored)


@pytest.mark.parametrize("name", ["Future", "os.system", "Potential"])
def test_an_unknown_class_is_named(name: str, stored: Path) -> None:
    rewrite(stored, lambda header: header["object"].update({"class": name}))
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(stored))} holds a '{name}', (which this version|.*import os first)"
    ):
        pf.load(stored)


def test_an_unknown_class_inside_is_named(tmp_path: Path) -> None:
    pf.save(pf.ProximalFlow(Ball(2)), tmp_path / "x")
    rewrite(tmp_path / "x", lambda header: header["object"]["arguments"]["schedule"].update({"class": "Sigmoid"}))
    with pytest.raises(ValueError, match="holds a 'Sigmoid'"):
        pf.load(tmp_path / "x")


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("format_version"),
        lambda header: header.pop("object"),
        lambda header: header.update(format_version="one"),
        lambda header: header.update(object={"kind": "Discrete"}),
        lambda header: header["object"].pop("arguments"),
        lambda header: header["object"].update(arguments=[1, 2]),
        lambda header: header["object"].update({"class": ["Discrete"]}),
        lambda header: header["object"]["arguments"].update(points={"tensor": "root.none"}),
    ],
)
def test_a_damaged_description_is_refused(change: Callable[..., Any], stored: Path) -> None:
    rewrite(stored, change)
    with pytest.raises(ValueError, match=re.escape(f"{stored} is damaged")):
        pf.load(stored)


@pytest.mark.parametrize("text", ["", "not json", "[]", "3", "null"])
def test_a_description_that_is_no_description_is_refused(text: str, stored: Path) -> None:
    save_file({"a": torch.ones(1)}, stored, metadata={"proxflow": text})
    with pytest.raises(ValueError, match=re.escape(str(stored))):
        pf.load(stored)


OTHER_ARGUMENTS = "a Discrete that this version of proxflow builds from other arguments"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda header: header["object"]["arguments"].update(surprise=1), OTHER_ARGUMENTS),
        (lambda header: header["object"]["arguments"].pop("points"), OTHER_ARGUMENTS),
        (
            lambda header: header["object"]["arguments"].update(heights={"tensor": "root.points"}),
            "a Discrete that cannot be built",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: Callable[..., Any], said: str, stored: Path) -> None:
    rewrite(stored, change)
    with pytest.raises(ValueError, match=re.escape(f"{stored} holds {said}")):
        pf.load(stored)


def test_what_is_read_passes_the_checks_of_what_is_built(stored: Path) -> None:
    with safetensors.safe_open(stored, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    tensors["root.points"][3] = math.nan
    save_file(tensors, stored, metadata=metadata)
    with pytest.raises(ValueError, match="1 row of points is not finite"):
        pf.load(stored)


def test_dictionaries_keep_their_keys(tmp_path: Path) -> None:
    state: dict[str | int, Any] = {"step": 3, 0: {"mean": torch.arange(3.0), "betas": (0.9, 0.999)}, "none": None}
    pf.save(state, tmp_path / "state")
    again = pf.load(tmp_path / "state")
    assert list(again) == ["step", 0, "none"]
    assert torch.equal(again[0]["mean"], state[0]["mean"])
    assert again[0]["betas"] == (0.9, 0.999)


def test_keys_may_be_tuples_and_numbers_of_numpy(tmp_path: Path) -> None:
    """A tuple was written, and the file then called damaged; the label of a class in numpy was not written."""
    state = {(1, (2, "a")): 3, np.int64(7): torch.arange(3.0), math.inf: None}
    pf.save(state, tmp_path / "state")
    again = pf.load(tmp_path / "state")
    assert list(again) == list(state)
    assert torch.equal(again[7], torch.arange(3.0))


@pytest.mark.parametrize("key", [b"a", torch.ones(1), frozenset([1])], ids=["bytes", "tensor", "set"])
def test_a_key_that_cannot_be_stored_is_named(key: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"save: a key of root is a \w+, which cannot be stored"):
        pf.save({key: 1}, tmp_path / "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("tensor", [torch.eye(2).to_sparse(), torch.ones(2, device="meta")], ids=["sparse", "meta"])
def test_a_tensor_without_dense_numbers_is_named(tensor: Tensor, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"save: root\.a is a Tensor, which cannot be stored; give a dense tensor"):
        pf.save({"a": tensor}, tmp_path / "x")


def test_a_study_of_batch_sizes_comes_back(tmp_path: Path) -> None:
    fitted = pf.semidiscrete.fit(atoms(20, 2, f64))
    study = pf.analysis.minibatch_convergence(fitted, [1, 2, 4], relative_error=0.5, kept_pairs=32, progress=False)
    same(study, returned(study, tmp_path))


def test_a_terminal_spectrum_comes_back(tmp_path: Path) -> None:
    spectrum = pf.analysis.terminal_spectrum(pf.ProximalFlow(pf.potentials.Ball(3)), atoms(4, 3), [0.5, 0.9])
    same(spectrum, returned(spectrum, tmp_path))


def test_an_independent_field_comes_back(tmp_path: Path) -> None:
    field = pf.IndependentField(atoms(20, 2), torch.arange(1.0, 21.0), SCHEDULES[-1], blurred_rows())
    same(field, returned(field, tmp_path))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_comes_back_in_its_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    network = pf.matching.MLP((3,), width=8, classes=2).to(dtype)
    pf.save(network, tmp_path / "network")
    loaded = pf.load(tmp_path / "network")
    for name, entry in network.state_dict().items():
        assert loaded.state_dict()[name].dtype == dtype
        assert torch.equal(loaded.state_dict()[name], entry)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_network_built_from_a_state_does_not_share_it() -> None:
    network = pf.matching.MLP((3,), width=8)
    other = pf.matching.MLP((3,), width=8, state=network.state_dict())
    with torch.no_grad():
        other.input.weight.zero_()
    assert bool(network.input.weight.any())


@pytest.mark.parametrize(
    "tree",
    [
        {"a.b": 1.0, "a": {"b": 2.0}},
        {1: 1.0, "1": 2.0},
        {"a": {"0": 1.0}, "a.0": 2.0},
        {"a.b": 0.0, "a.b (2)": 1.0, "a": {"b": 2.0}},
    ],
)
def test_tensors_whose_paths_are_written_alike_are_kept_apart(tree: dict[Any, Any], tmp_path: Path) -> None:
    def tensors(of: Any) -> Any:
        return {key: tensors(value) for key, value in of.items()} if isinstance(of, dict) else torch.tensor(of)

    def numbers(of: Any) -> Any:
        return {key: numbers(value) for key, value in of.items()} if isinstance(of, dict) else float(of)

    pf.save(tensors(tree), tmp_path / "file")
    assert numbers(pf.load(tmp_path / "file")) == tree


def test_a_coupling_in_some_directions_says_what_to_save() -> None:
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    coupling = pf.couplings.Subspace.fit(rows, 1, tol=0.5, progress=False)
    with pytest.raises(TypeError, match="save its potential and its directions"):
        pf.save(coupling, "never")
