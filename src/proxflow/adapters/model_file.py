"""A network from a file, and what a file may do while it is read.

What each format can do was read from PyTorch 2.13's source, and tried:

- safetensors holds numbers and nothing else.
- TorchScript is a program. PyTorch reads it with a reader of its own, which makes no Python objects, but runs parts of
  the program while it loads, and its operators ``save`` and ``from_file`` write and read any file. A program that names
  them is refused unless it is trusted.
- torch.export unpickles: ``torch.export.load`` falls back to ``weights_only=False`` for whatever that refuses, and has
  sympy evaluate the file's expressions. It is refused unless it is trusted.
- torch.save writes a pickle. Weights alone are read by PyTorch's restricted reader (``weights_only=True``); a whole
  network only if it is trusted.

This keeps programs out that reach beyond their numbers, and is no sandbox: what PyTorch's readers and operators do with
a file that was made to attack them is not looked into.
"""

from __future__ import annotations

import importlib
import operator
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor, nn

from proxflow.errors import in_a_line

__all__ = ["ScriptedNetwork", "read_model"]

_REACHING_OUT = re.compile(
    r'\b(?:save|from_file)\b|\bgetattr\b(?!\([\w.]+, "\w+"\))'
)  # the latter by a name in disguise
_LENGTH = struct.Struct("<Q")  # of a safetensors header, its first 8 bytes
_CODE = re.compile(r"[^/]+/code/.*\.py", re.DOTALL)  # sources in a TorchScript archive
_TRUST = "trust=True (--trust)"

Network = Callable[[], nn.Module]


def read_model(path: str | Path, *, network: Network | str | None = None, trust: bool = False) -> nn.Module:
    """The network that a file holds, on the CPU and in evaluation mode.

    Args:
        path: a file of TorchScript (``torch.jit.save``), ``torch.export`` (.pt2), safetensors, or ``torch.save``.
        network: for files of weights, what builds the network without arguments: a callable, or "package.module:name"
            of one, whose module is then imported. The weights must be all that the network has.
        trust: run what a file of ``torch.export`` or ``torch.save`` tells Python to run, and TorchScript that reads or
            writes files. Only for files that you made, or whose maker you trust.

    Raises:
        ValueError: no such file, a damaged one or one of another kind, a file that must be trusted, or a network that
            cannot be built or has other weights.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"read_model: there is no file {path}")
    kind = _kind_of(file)
    if kind in ("TorchScript", "torch.export"):
        if network is not None:
            raise ValueError(f"read_model: {path} is a {kind} program and brings its network; leave out network")
        return _scripted(file, trust=trust) if kind == "TorchScript" else _exported(file, trust=trust)
    if network is None:
        if kind == "safetensors":
            raise ValueError(_unbuilt(file))
        return _unpickled_network(file, trust=trust)
    built = _built(network)
    if kind == "safetensors":
        _fill_from_safetensors(built, file)
    else:
        _fill_from_pickle(built, file, trust=trust)
    return built.eval()


def _kind_of(file: Path) -> str:
    """What a file is by its content.

    Raises:
        ValueError: nothing that is known.
    """
    with file.open("rb") as stream:
        head = stream.read(9)
    if head.startswith(b"PK"):
        return _kind_of_archive(file)
    if head.startswith(b"\x80"):  # the first byte of any pickle of protocol 2 and above
        return "pickle"
    if head[8:] == b"{" and _LENGTH.unpack(head[:8])[0] <= file.stat().st_size - 8:
        return "safetensors"
    raise ValueError(
        f"read_model: {file} is no model, or is damaged: none of TorchScript, torch.export, safetensors or torch.save"
    )


def _kind_of_archive(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"read_model: {file} is damaged ({error})") from error
    if any(name.endswith("archive_format") or name == "serialized_exported_program.json" for name in names):
        return "torch.export"
    if any(name.endswith("/constants.pkl") for name in names):
        return "TorchScript"
    if any(name.endswith("/data.pkl") for name in names):
        return "pickle"
    raise ValueError(f"read_model: {file} is a zip archive, but none of TorchScript, torch.export or torch.save")


class ScriptedNetwork(nn.Module):
    """A TorchScript program that always runs as it is written, so that it has derivatives.

    PyTorch optimises a program for the first calls that it sees. If these ask for no derivative in x, that of later
    calls is zero, without a word.

    Args:
        script: that nobody has called yet.
    """

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, *arguments: Any) -> Any:
        """What the program gives."""
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return self.script(*arguments)


def _scripted(file: Path, *, trust: bool) -> ScriptedNetwork:
    if not trust:
        _refuse_reaching_out(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as such: the file is what it is
            return ScriptedNetwork(torch.jit.load(str(file), map_location="cpu").eval())
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"read_model: {file} is damaged TorchScript: {in_a_line(error)}") from error


def _refuse_reaching_out(file: Path) -> None:
    """Refuse a program whose source names an operator that writes or reads files."""
    with zipfile.ZipFile(file) as archive:
        for name in filter(_CODE.fullmatch, archive.namelist()):
            try:
                found = _REACHING_OUT.search(archive.read(name).decode())
            except (zipfile.BadZipFile, ValueError) as error:
                raise ValueError(f"read_model: {file} is damaged TorchScript: {in_a_line(error)}") from error
            if found:
                raise ValueError(
                    f"read_model: the program in {file} names {found[0]!r}, by which it may write or read files; if "
                    f"you made it, or trust who did, give {_TRUST}"
                )


def _exported(file: Path, *, trust: bool) -> nn.Module:
    if not trust:
        raise ValueError(
            f"read_model: {file} is a torch.export program, and reading one can run any code that its maker put in; if "
            f"you made it, or trust who did, give {_TRUST}"
        )
    try:
        program = torch.export.load(str(file))
    except Exception as error:  # whatever the code of a file raises
        raise ValueError(f"read_model: {file} is a damaged torch.export program: {in_a_line(error)}") from error
    if not program.range_constraints:
        raise ValueError(
            f"read_model: {file} was exported for one number of rows; export it with dynamic_shapes={{...}} and a "
            "torch.export.Dim for the first axis of both arguments"
        )
    return program.module()


def _unpickled_network(file: Path, *, trust: bool) -> nn.Module:
    if not trust:
        raise ValueError(_untrusted(file))
    try:
        found = _unpickled(file, weights_only=False)
    except Exception as error:  # whatever the code of a pickle raises
        raise ValueError(f"read_model: {file} cannot be unpickled: {in_a_line(error)}") from error
    if isinstance(found, Mapping):
        raise ValueError(_unbuilt(file))
    if not isinstance(found, nn.Module):
        raise ValueError(f"read_model: {file} holds a {type(found).__name__}, not a torch.nn.Module")
    return found.eval()


def _unpickled(file: Path, *, weights_only: bool) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of protocols that PyTorch does not write itself
        return torch.load(file, map_location="cpu", weights_only=weights_only)


def _untrusted(file: Path) -> str:
    return (
        f"read_model: {file} is a pickle of torch.save, and unpickling can run any code that its maker put in; if you "
        f"made it, or trust who did, give {_TRUST}; of a file of weights, give network= (--network) instead"
    )


def _unbuilt(file: Path) -> str:
    return (
        f'read_model: {file} holds weights and no network; give network="package.module:name" (--network), a callable '
        "that builds it"
    )


def _built(network: Network | str) -> nn.Module:
    """The network that the user's own code makes."""
    name = network if isinstance(network, str) else getattr(network, "__qualname__", repr(network))
    build = _imported(network) if isinstance(network, str) else network
    try:
        made = build()
    except Exception as error:  # anything, since it is the user's code
        raise ValueError(f"read_model: network {name} raised {in_a_line(error)}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"read_model: network {name} gave a {type(made).__name__}, not a torch.nn.Module")
    return made


def _imported(network: str) -> Network:
    module, _, name = network.partition(":")
    if not module or not name:
        raise ValueError(f'read_model: network must be "package.module:name", got {network!r}')
    try:
        found = operator.attrgetter(name)(importlib.import_module(module))
    except Exception as error:  # an import runs the user's code
        raise ValueError(f"read_model: network {network} cannot be imported: {in_a_line(error)}") from error
    if not callable(found):
        raise ValueError(f"read_model: network {network} is a {type(found).__name__}, not a callable")
    return cast(Network, found)


def _fill_from_safetensors(network: nn.Module, file: Path) -> None:
    try:
        load_model(network, str(file))
    except SafetensorError as error:
        raise ValueError(f"read_model: {file} is damaged: {in_a_line(error)}") from error
    except RuntimeError as error:
        raise ValueError(f"read_model: {file} does not fit the network: {in_a_line(error)}") from error


def _fill_from_pickle(network: nn.Module, file: Path, *, trust: bool) -> None:
    try:
        weights = _unpickled(file, weights_only=not trust)
    except pickle.UnpicklingError as error:
        raise ValueError(f"read_model: {file} is damaged" if trust else _untrusted(file)) from error
    except Exception as error:  # whatever the code of a trusted pickle raises; else a damaged file
        raise ValueError(f"read_model: {file} cannot be unpickled: {in_a_line(error)}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(entry, Tensor) for entry in weights.values()):
        raise ValueError(f"read_model: {file} holds more than weights by name; save network.state_dict() alone")
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ValueError(f"read_model: {file} does not fit the network: {in_a_line(error)}") from error
