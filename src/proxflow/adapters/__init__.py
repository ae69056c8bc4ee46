"""Other people's models and loops: torchcfm, flow_matching, diffusers, Lightning, any callable, and models in files.

``adapters.torchcfm``, ``adapters.flow_matching``, ``adapters.diffusers`` and ``adapters.lightning`` load on first use;
only the last of them, and conversions that return an object of a library, need the library itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from proxflow.adapters.convention import Convention, convention_named, to_field
from proxflow.adapters.convention_check import ConventionCheck, check_convention
from proxflow.adapters.detected_field import DetectedField, detect_field
from proxflow.adapters.model_call import ORDERS
from proxflow.adapters.model_file import read_model
from proxflow.adapters.paired_noise import PairedNoise
from proxflow.adapters.training_audit import TrainingAudit

if TYPE_CHECKING:  # not from proxflow.adapters import ...: a package hands on names of its modules, not modules
    import proxflow.adapters.diffusers
    import proxflow.adapters.flow_matching
    import proxflow.adapters.lightning
    import proxflow.adapters.torchcfm  # noqa: F401

__all__ = [
    "ORDERS",
    "Convention",
    "ConventionCheck",
    "DetectedField",
    "PairedNoise",
    "TrainingAudit",
    "check_convention",
    "convention_named",
    "detect_field",
    "diffusers",
    "flow_matching",
    "lightning",
    "read_model",
    "to_field",
    "torchcfm",
]

_LIBRARIES = ("diffusers", "flow_matching", "lightning", "torchcfm")


def __getattr__(name: str) -> object:
    if name in _LIBRARIES:
        return importlib.import_module(f"proxflow.adapters.{name}")
    raise AttributeError(f"module 'proxflow.adapters' has no attribute {name!r}")
