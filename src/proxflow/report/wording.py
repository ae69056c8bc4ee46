"""What a report says about a fit, in plain words."""

from __future__ import annotations

import math

from proxflow.data import Dataset
from proxflow.errors import counted
from proxflow.flow import ProximalFlow
from proxflow.schedules import Linear
from proxflow.semidiscrete import Fit

__all__ = [
    "chi2_in_words",
    "convergence_caption",
    "cost_in_words",
    "counted",
    "image_caption",
    "is_exact",
    "method_in_words",
    "path_caption",
    "share_caption",
    "summary",
    "title",
    "verdict",
]

_METHODS = {
    "one atom": "none needed: all noise goes to the one point",
    "quantiles": "quantiles of the noise along the line of the data; the cell masses are computed exactly",
    "damped Newton": "damped Newton; the cell masses are computed exactly",
    "averaged gradient": "averaged stochastic gradient; the cell masses are measured on random draws",
}


def is_exact(fit: Fit) -> bool:
    """Whether the cell masses are computed; else they are estimated from draws."""
    return fit.chi2_stderr == 0


def method_in_words(fit: Fit) -> str:
    """How the fit was made."""
    return _METHODS[fit.method]


def chi2_in_words(fit: Fit, plus_minus: str = "±") -> str:
    """The error of the shares and how well it is known."""
    return f"{fit.chi2:.4g}, exact" if is_exact(fit) else f"{fit.chi2:.4g} {plus_minus} {fit.chi2_stderr:.2g}"


def cost_in_words(fit: Fit) -> str:
    """The transport cost and how well it is known: to all digits, within bounds, or with 95% confidence."""
    value, low, high = (f"{number:.6g}" for number in (fit.transport_cost, *fit.transport_cost_interval))
    if low == high:
        return f"{value}, exact"
    if is_exact(fit) and len(fit.potential.points) > 1:
        return f"{value}, between {low} and {high}"
    return f"{value}, 95% interval [{low}, {high}]"


def title(fit: Fit, dataset: Dataset) -> str:
    """The headline of the page."""
    return f"The {'smoothed' if fit.epsilon > 0 else 'exact'} optimal-transport flow of {dataset.name}"


def verdict(fit: Fit) -> str:
    """Whether the fit met its tolerance, and what that means."""
    if len(fit.potential.points) == 1:
        return "Exact: there is one data point, and it receives all of the noise."
    exact = is_exact(fit)
    upper = max(fit.chi2 + 2 * fit.chi2_stderr, 0.0)
    known = "computed, not counted; χ²" if exact else "χ² plus two standard errors"
    shares = "the shares of the noise that the data points receive"
    if fit.converged:
        return (
            f"Converged: {shares} have a relative error of {'' if exact else 'at most '}{_percent(math.sqrt(upper))} "
            f"(root mean square; {known} is {upper:.3g}, the tolerance {fit.tol:g})."
        )
    optimal = "between noise and where it ends" if fit.epsilon > 0 else "for the shares that they do receive"
    return (
        f"Not converged: {shares} have a relative error of {'' if exact else 'up to '}{_percent(math.sqrt(upper))} "
        f"(root mean square; {known} is {upper:.3g}, above the tolerance {fit.tol:g}). "
        f"The flow is still exactly optimal {optimal}."
    )


def summary(fit: Fit, flow: ProximalFlow, dataset: Dataset) -> str:
    """What the flow is, and what it is for."""
    path = "a straight line" if isinstance(flow.schedule, Linear) else "a path set by the schedule"
    count = "The one point" if dataset.n == 1 else f"The {dataset.n:,} points"
    known = "The velocity at any place and time is computed exactly, with an error bound."
    if fit.epsilon > 0:
        return (
            f"{count} of {dataset.name} and Gaussian noise were joined by smoothed (entropic) optimal transport: every "
            "noise point is shared among the data points that suit it about equally well, and travels along "
            f"{path} to the mean of its shares. {known} The flow ends not on the data themselves but between them, in "
            "their convex hull, and is exactly optimal to the law that it ends on; the larger the smoothing, the "
            "closer together its ends."
        )
    return (
        f"{count} of {dataset.name} and Gaussian noise were joined by optimal transport: the pairing of least mean "
        f"squared distance. Every noise point travels along {path} to one data point. {known} The flow ends on the "
        "data themselves: it is a reference, a teacher and a coupling for training, not a generator of new samples."
    )


def path_caption(dim: int) -> str:
    """Under the picture of trajectories."""
    if dim == 1:
        return "Exact trajectories of the flow over time. They never meet before t = 1."
    if dim == 2:
        return "Exact trajectories of the flow. Two of them are never at one place at one time before t = 1."
    return (
        "Exact trajectories of the flow, seen in the plane of the two largest variances. In the full space two of "
        "them are never at one place at one time before t = 1."
    )


def image_caption(fit: Fit) -> str:
    """Under the picture of images along trajectories."""
    end = "the mean of data images" if fit.epsilon > 0 else "the data image"
    return (
        f"Each row is one trajectory, from noise (left) to {end} that it ends on (right). Black and white are the "
        "least and the largest value of the data."
    )


def convergence_caption(fit: Fit) -> str:
    """Under the picture of convergence."""
    if is_exact(fit):
        return (
            "Error of the shares after each Newton step. Shares are computed from the geometry of the cells, not "
            "counted, so that no statistical error limits them. The diamond is the error of the heights as they are "
            "stored, rounded."
        )
    limit = " Smoothing makes the true limit lower than the one drawn." if fit.epsilon > 0 else ""
    return (
        "Error of the shares while the fit ran, measured on fresh noise. The fit stops when the upper end of the bar "
        f"is below the tolerance.{limit}"
    )


def share_caption(fit: Fit) -> str:
    """Under the picture of the cell masses."""
    what = "How much noise each data point receives, relative to its weight in the data."
    if is_exact(fit):
        return f"{what} The shares are computed, not counted: all of the spread is error of the fit."
    if fit.epsilon > 0:
        return f"{what} The shares are means over random draws, so that some of the spread is their sampling error."
    return f"{what} The noise is counted, so some of the spread is counting noise."


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 1e-3 or share == 0 else f"{100 * share:.1g}%"
