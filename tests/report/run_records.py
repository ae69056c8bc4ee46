"""Records of runs as `proxflow train` and `audit` write them, with figures of one's choice."""

from __future__ import annotations

from typing import Any

STEPS = (1, 2, 4, 8, 100)


def training_record(
    distances: tuple[float, ...] = (0.5, 0.3, 0.2, 0.1, 0.05),
    error: float = 0.01,
    *,
    variances: tuple[float, ...] = (1.0,) * 5,
    nearest: tuple[float, float, float] = (1.0, 0.9, 1.1),
    data: dict[str, Any] | None = None,
    measured: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """A run of training, by its few-step figures; the rest are changes to what all have."""
    told = {"data": "moons", "label": None, "drop_missing": False, "coupling": "independent", "steps": 100, "seed": 0}
    told |= {"network": "mlp", "width": 16, "depth": 1, "schedule": "linear", "batch_size": 64}
    made_of = {"name": "moons", "points": 400, "event_shape": [2], "sha256": "ab" * 32, "standardise": "global"}
    quality = {
        "samples": 1000,
        "compared": 400,
        "steps": list(STEPS[: len(distances)]),
        "energy_distance": list(distances),
        "energy_distance_error": [error] * len(distances),
        "energy_distance_of_noise": 2.0,
        "energy_distance_of_normal_law": 1.0,
        "total_variance_over_data": list(variances[: len(distances)]),
        "total_variance_error": [0.01] * len(distances),
        "nearest_row_ratio": nearest[0],
        "nearest_row_ratio_interval": list(nearest[1:]),
    }
    found = {"finished": True, "steps": 100, "loss": 1.5, "field_error": None, "seconds": 3.25, "parameters": 1178}
    return {
        "command": "train",
        "arguments": told | arguments,
        "versions": {"proxflow": "0.1.0", "torch": "2.13.0"},
        "data": made_of | (data or {}),
        "result": found | {"quality": quality | (measured or {})} | (result or {}),
    }


def audit_record(figures: dict[str, tuple[float, float]], **arguments: Any) -> dict[str, Any]:
    """A run of an audit, by values and standard errors of its figures."""
    told = {"run": "runs/moons", "data": None, "held_out": None, "count": 128, "steps": 8, "seed": 0}
    kept = {
        name: {"value": value, "interval": [value - 1.96 * error, value + 1.96 * error], "exact": 0.0}
        for name, (value, error) in figures.items()
    }
    return {
        "command": "audit",
        "arguments": told | {"schedule": "linear"} | arguments,
        "versions": {"proxflow": "0.1.0"},
        "data": {"name": "moons", "points": 400, "event_shape": [2], "sha256": "ab" * 32, "standardise": "global"},
        "result": {"verdict": "", "warnings": [], "advice": "", "figures": kept},
    }
