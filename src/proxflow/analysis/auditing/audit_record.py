"""What an audit returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from proxflow.analysis.auditing.intervals import Estimate
from proxflow.results import brief_repr
from proxflow.storage import storable

__all__ = ["GROUPS_OF_FIGURES", "Audit", "Figure", "figures_of"]


@storable
@dataclass(frozen=True)
class Figure:
    """One number about a field, beside what the exact flow and the field of independent pairs have.

    Attributes:
        name: as a key of ``Audit.figures``.
        value: measured.
        low, high: 95% interval.
        exact: what the exact flow has: by a law where there is one, else measured on the reference; or None.
        independent: what the field of independent pairs has, measured on ``IndependentField``; or None.
        meaning: one plain sentence.
    """

    name: str
    value: float
    low: float
    high: float
    exact: float | None
    independent: float | None
    meaning: str

    def excludes_exact(self, margin: float, widths: float = 1.5) -> bool:
        """Whether the value is off the exact one by more than the margin, with 1.5 times the interval to spare.

        1.5 times the half-width is three standard errors: of a thousand intervals three are off by chance.
        """
        if self.exact is None:
            return False
        above = self.value - widths * (self.value - self.low) - self.exact
        below = self.exact - self.value - widths * (self.high - self.value)
        return above > margin or below > margin


@storable
@brief_repr
@dataclass(frozen=True)
class Audit:
    """A field against the laws of the exact flow.

    Attributes:
        figures: name -> ``Figure``, in the order of the page.
        verdict: one plain paragraph.
        warnings: faults that were found, a sentence or two each, the gravest first; empty for a sound field.
        advice: what would help, and why.
        times: (T,) of the next two; None without a reference.
        velocity_error: (T,) root of E|v - v_exact|^2 over the field's own trajectories, in velocity units.
        velocity_bound: (T,) what the convergence theorem allows a field of pairs whose cost exceeds the least one by
            ``pair_excess``: W sqrt(excess / (2 alpha beta)).
        steps: numbers of steps tried.
        step_grid: five times of four steps, the best of a few grids, ``integrate(field, x0, times=step_grid,
            method="proximal")``; equal steps where none is better. ``four_step_gain`` judges it on other noise.
        step_error: root of E|x1 with so few steps - x1|^2 over that of the samples' variance, one for each.
        group_names: of the groups of data whose shares were compared.
        group_shares: (G, 2), of the samples and of the data.
        seed: of the run.
        seconds: it took.
    """

    figures: Mapping[str, Figure]
    verdict: str
    warnings: tuple[str, ...]
    advice: str
    times: Tensor | None
    velocity_error: Tensor | None
    velocity_bound: Tensor | None
    steps: tuple[int, ...]
    step_error: tuple[float, ...]
    step_grid: tuple[float, ...]
    group_names: tuple[str, ...]
    group_shares: Tensor
    seed: int
    seconds: float


GROUPS_OF_FIGURES: dict[str, dict[str, tuple[float | None, str]]] = {
    "Is it a prox?": {
        "jacobian_asymmetry": (
            0.0,
            "Antisymmetric share of the velocity's Jacobian: a gradient field has none, a rotation adds to it.",
        ),
        "rotation": (
            0.0,
            "The part of it that all trajectories have in common: a rotation of the field, and no error of training.",
        ),
        "spectrum_above": (
            0.0,
            "Share of trajectories where the Jacobian exceeds beta'/beta, which no optimal transport does.",
        ),
        "spectrum_below": (
            0.0,
            "Share of trajectories where the Jacobian is below alpha'/alpha, which no mean of pairs from normal noise "
            "is either.",
        ),
        "largest_eigenvalue": (
            None,
            "Mean of the largest eigenvalue of beta D recover_target along a trajectory: at most 1 for optimal "
            "transport.",
        ),
        "recovered_drift": (
            0.0,
            "How far the data point that the field aims at moves on the way, over the deviation of the samples.",
        ),
        "cycle_violations": (
            0.0,
            "Share of two generated pairs that would cost less if they exchanged their targets.",
        ),
        "repairing_gain": (
            0.0,
            "Cost that pairing the generated points again with the same noise would save, over the least cost.",
        ),
    },
    "How far from optimal?": {
        "cost_excess": (0.0, "Cost of the generated pairs above that of the exact flow on the same noise, over it."),
        "velocity_error": (0.0, "Error of the velocity on the exact trajectories, over the exact speed."),
        "pair_excess": (
            0.0,
            "What the pairs behind the field cost at least above the least cost, over it, by the convergence theorem.",
        ),
        "equivalent_batch": (
            None,
            "Size of the minibatches from whose pairs a perfect network would have as much of the error of independent "
            "pairs: 1 for these, and for a field that errs more; no upper end where it may be larger than any tried.",
        ),
    },
    "Does it make the data?": {
        "energy_distance": (
            0.0,
            "Energy distance of samples and data, over the root mean square distance of two rows of the data.",
        ),
        "wasserstein": (None, "W2 of equally many samples and rows, over the deviation of the data."),
        "variance_ratio": (1.0, "Total variance of the samples over the right one."),
        "variance_ratio_1": (1.0, "The same along the first principal direction of the data."),
        "variance_ratio_2": (1.0, "The same along the second."),
        "variance_ratio_3": (1.0, "The same along the third."),
        "group_error": (0.0, "chi2 of the shares of classes, or of clusters of the data, that are generated."),
        "group_least": (
            None,
            "Share of the samples over the share of the data, in the group where it is least: 0 if it is dropped.",
        ),
        "precision": (None, "Share of samples within the third-neighbour radius of a row of the data."),
        "recall": (None, "Share of rows within the third-neighbour radius of a sample."),
        "nearest_row_ratio": (
            None,
            "Distance of samples to the nearest training row, over that of held-out rows: 0 for copies.",
        ),
        "label_leakage": (
            0.0,
            "How much oftener than by chance a row's class is told from its noise, back along the model that is told "
            "the class: what it then lacks in sampling.",
        ),
    },
    "How does it arrive?": {
        "local_dimension": (None, "Trace of beta D recover_target at t = 0.9: dimensions of the data that it sees."),
        "density_bits": (
            None,
            "Minus the mean log2-density of held-out rows, or of the data, by dimension and in the units of the model: "
            "lower is better.",
        ),
    },
    "What would help?": {
        "one_step_error": (0.0, "Error of samples made in one step, over their deviation."),
        "four_step_error": (0.0, "The same in four steps."),
        "four_step_best_error": (0.0, "The same at the best times found, on noise that they were not chosen by."),
        "four_step_gain": (
            None,
            "That error over the one at equal times, from the same noise: 1 where equal steps are as good.",
        ),
    },
}
"""Questions and the figures that answer them: the value of any exact flow (None: it depends), and the meaning."""


def figures_of(
    found: dict[str, Estimate], exact: dict[str, Estimate], independent: dict[str, Estimate]
) -> Mapping[str, Figure]:
    """Figures in the order of the page, each with what the exact flow and independent pairs have where it is known."""
    figures = {}
    for entries in GROUPS_OF_FIGURES.values():
        for name, (law, meaning) in entries.items():
            if name in found:
                own = exact[name].value if law is None and name in exact else law
                other = independent[name].value if name in independent else None
                one = found[name]
                figures[name] = Figure(name, one.value, one.low, one.high, own, other, meaning)
    return figures
