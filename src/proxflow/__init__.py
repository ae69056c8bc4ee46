"""proxflow: exact optimal-transport flow matching.

It turns a data set into an exact optimal-transport flow and measures how far any model is from it.
Submodules load on first use, so ``import proxflow as pf`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from proxflow.version import __version__

if TYPE_CHECKING:
    from proxflow import (
        adapters,
        analysis,
        couplings,
        data,
        matching,
        measures,
        metrics,
        potentials,
        predictions,
        report,
        sampling,
        schedules,
        semidiscrete,
        symmetry,
    )
    from proxflow.errors import ConvergenceError, ConvergenceWarning, DataWarning
    from proxflow.flow import ProximalFlow
    from proxflow.independent_field import IndependentField
    from proxflow.results import ProxResult, Status
    from proxflow.storage import load, save, storable

__all__ = [
    "ConvergenceError",
    "ConvergenceWarning",
    "DataWarning",
    "IndependentField",
    "ProxResult",
    "ProximalFlow",
    "Status",
    "__version__",
    "adapters",
    "analysis",
    "couplings",
    "data",
    "load",
    "matching",
    "measures",
    "metrics",
    "potentials",
    "predictions",
    "report",
    "sampling",
    "save",
    "schedules",
    "semidiscrete",
    "storable",
    "symmetry",
]

_HOME = {
    "ConvergenceError": "errors",
    "ConvergenceWarning": "errors",
    "DataWarning": "errors",
    "IndependentField": "independent_field",
    "ProxResult": "results",
    "ProximalFlow": "flow",
    "Status": "results",
    "load": "storage",
    "save": "storage",
    "storable": "storage",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"proxflow.{_HOME[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"proxflow.{name}")
    raise AttributeError(f"module 'proxflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
