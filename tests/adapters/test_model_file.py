"""Networks in files: read where that runs nothing, refused in one line where it would."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from proxflow.adapters import read_model
from tests.adapters.models import NormalField, normal_field, write_export, write_script

BUILDER = "tests.adapters.models:NormalField"
POINTS, TIMES = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)), torch.linspace(0.1, 0.9, 5)


class Payload:
    """Unpickling makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.made),)


class Writer(nn.Module):
    def __init__(self, made: str) -> None:
        super().__init__()
        self.made = made

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        torch.save(x, self.made)
        return x


class Reader(nn.Module):
    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return torch.from_file("/etc/hostname", False, 1, dtype=torch.uint8)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ValueError, match=r"^read_model: ") as caught:
        read_model(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def source(script: Path) -> str:
    with zipfile.ZipFile(script) as archive:
        return "".join(archive.read(name).decode() for name in archive.namelist() if name.endswith(".py"))


def weights(path: Path) -> Path:
    save_file(normal_field().state_dict(), path)
    return path


def test_every_format_gives_the_network(tmp_path: Path) -> None:
    torch.save(normal_field(), tmp_path / "whole.pt")
    torch.save(normal_field().state_dict(), tmp_path / "weights.pt")
    read = [
        read_model(write_script(normal_field(), tmp_path / "model.ts")),
        read_model(write_export(normal_field(), tmp_path / "model.pt2"), trust=True),
        read_model(weights(tmp_path / "model.safetensors"), network=BUILDER),
        read_model(str(weights(tmp_path / "model.safetensors")), network=NormalField),
        read_model(tmp_path / "whole.pt", trust=True),
        read_model(tmp_path / "weights.pt", network=BUILDER),
    ]
    for network in read:
        torch.testing.assert_close(network(POINTS, TIMES), normal_field()(POINTS, TIMES))
    assert not any(network.training for network in read[2:])


def test_a_file_without_trust_runs_nothing(tmp_path: Path) -> None:
    """A pickle, and one inside of a torch.export archive, which ``torch.export.load`` runs."""
    made = tmp_path / "made"
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Payload(made)))
    torch.save(Payload(made), tmp_path / "model.pt")
    archive = write_export(normal_field(), tmp_path / "model.pt2")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(tmp_path / "attack.pt2", "w") as new:
        for name in old.namelist():
            attack = name.endswith("sample_inputs/model.pt")
            new.writestr(name, (tmp_path / "model.pt").read_bytes() if attack else old.read(name))
    for name in ("model.pkl", "model.pt", "attack.pt2"):
        assert "trust=True (--trust)" in refusal(tmp_path / name)
    for name in ("model.pkl", "model.pt"):
        assert "trust=True (--trust)" in refusal(tmp_path / name, network=BUILDER)
    assert not made.exists()
    refusal(tmp_path / "attack.pt2", trust=True)
    assert made.exists()


@pytest.mark.parametrize("disguise", ["save", "disguised"])
def test_a_script_that_writes_files_is_refused(tmp_path: Path, disguise: Any) -> None:
    made, path = tmp_path / "made", write_script(Writer(str(tmp_path / "made")), tmp_path / "model.ts")
    if disguise == "disguised":
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "other.ts", "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name).replace(b"torch.save(", b'getattr(torch, "\\x73ave")('))
        path = tmp_path / "other.ts"
    assert "may write or read files" in refusal(path)
    assert not made.exists()


def test_a_script_that_reads_files_is_refused(tmp_path: Path) -> None:
    assert "names 'from_file'" in refusal(write_script(Reader(), tmp_path / "model.ts"))


def test_a_trusted_script_may_write(tmp_path: Path) -> None:
    model = read_model(write_script(Writer(str(tmp_path / "made")), tmp_path / "model.ts"), trust=True)
    model(TIMES, POINTS)
    assert (tmp_path / "made").exists()


def test_traced_containers_are_no_disguise(tmp_path: Path) -> None:
    """Tracing writes getattr(layers, "0") for the parts of a Sequential."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), POINTS).save(str(tmp_path / "model.ts"))
    assert "getattr" in source(tmp_path / "model.ts")
    assert read_model(tmp_path / "model.ts")(POINTS).shape == POINTS.shape


@pytest.mark.parametrize("name", ["model.ts", "model.pt2", "model.safetensors", "whole.pt"])
@pytest.mark.parametrize("kept", [0.6, 0.02])
def test_damaged_files(tmp_path: Path, name: str, kept: float) -> None:
    torch.save(normal_field(), tmp_path / "whole.pt")
    write_script(normal_field(), tmp_path / "model.ts")
    weights(tmp_path / "model.safetensors")
    if name == "model.pt2":
        write_export(normal_field(), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: round(kept * len(content))])
    assert "damaged" in refusal(tmp_path / name, trust=True)


@pytest.mark.parametrize("part", ["constants.pkl", "code/__torch__/tests/adapters/models.py", "data.pkl"])
def test_a_damaged_part_of_a_script(tmp_path: Path, part: str) -> None:
    path = write_script(normal_field(), tmp_path / "model.ts")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "other.ts", "w") as new:
        assert any(name.endswith(part) for name in old.namelist())
        for name in old.namelist():
            new.writestr(name, b"\x80nonsense" if name.endswith(part) else old.read(name))
    assert "is damaged TorchScript" in refusal(tmp_path / "other.ts")


def test_files_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a long enough line of text")
    (tmp_path / "empty").touch()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    assert "is no model" in refusal(tmp_path / "notes.txt")
    assert "is no model" in refusal(tmp_path / "empty")
    assert "a zip archive, but none of" in refusal(tmp_path / "other.zip")
    assert "there is no file" in refusal(tmp_path / "missing")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds a list, not a torch.nn.Module" in refusal(tmp_path / "list.pt", trust=True)
    torch.save({"epoch": 3, "model": normal_field().state_dict()}, tmp_path / "checkpoint.pt")
    assert "more than weights by name" in refusal(tmp_path / "checkpoint.pt", network=BUILDER)
    torch.save(normal_field().state_dict(), tmp_path / "weights.pt")
    assert "holds weights and no network" in refusal(tmp_path / "weights.pt", trust=True)
    path = write_export(normal_field(), tmp_path / "fixed.pt2", any_rows=False)
    assert "export it with dynamic_shapes" in refusal(path, trust=True)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (None, "holds weights and no network"),
        ("tests.adapters.models", '"package.module:name"'),
        ("tests.adapters.nowhere:NormalField", "No module named 'tests.adapters.nowhere'"),
        ("tests.adapters.models:Nothing", "has no attribute 'Nothing'"),
        ("tests.adapters.models:F64", "is a dtype, not a callable"),
        ("tests.adapters.models:broken", "raised RuntimeError: no configuration was found"),
        ("tests.adapters.models:normal_rows", "gave a Tensor, not a torch.nn.Module"),
        (lambda: nn.Linear(2, 2), "does not fit the network"),
    ],
)
def test_networks_that_do_not_build(tmp_path: Path, network: Any, words: str) -> None:
    assert words in refusal(weights(tmp_path / "model.safetensors"), network=network)
    torch.save(normal_field().state_dict(), tmp_path / "weights.pt")
    if network is not None:
        assert words in refusal(tmp_path / "weights.pt", network=network)


def test_a_program_takes_no_network(tmp_path: Path) -> None:
    assert "leave out network" in refusal(write_script(normal_field(), tmp_path / "model.ts"), network=BUILDER)
