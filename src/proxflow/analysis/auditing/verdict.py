"""What the figures of an audit mean: faults with their names, one paragraph, and what would help."""

from __future__ import annotations

import math
from collections.abc import Mapping

from proxflow.analysis.auditing.audit_record import Figure
from proxflow.analysis.auditing.generation import Shares
from proxflow.analysis.auditing.readings import Reading

__all__ = ["FAR", "advise", "faults", "verdict_of"]

_SKEW = 0.05  # of the Jacobian: less moves samples little
_TURN = 0.15  # of the Jacobian, in common to all trajectories: a U-Net that is trained for a minute has 0.08
_VARIANCE = 0.03  # of the ratio from 1, in all or along a direction: weights at the end of training swing by as much
_OF_SEVERAL = 1.7  # half-widths of 95% intervals, 3.3 standard errors: three directions are off by chance as seldom as
# one figure is by three
_DIRECTIONS = ("first", "second", "third")  # principal ones of the data
FAR = 0.02  # energy distance over the root mean square distance of two rows
_DROPPED = 0.5  # of a group's share in the data, that the samples stay below
_COPIES = 0.5  # of the distance of new rows
_EXACT = 1e-3  # of a relative figure, below which no sampling of a network gets
_NOTHING = 5e-4  # of the cost: less is 0.0%
_AS_GOOD = 0.995  # of that error, above which the times are as good: 0% would be taken off
_WORTHWHILE = 0.95  # of the error of equal steps, below which other times are named
_TOLD = 0.1  # of labels, above chance
_ROUNDING = 1e-6  # of a relative figure, of float32 at most
_STRAIGHT = 0.05  # of a relative figure, below which a field is as good as exact
_MISFIT = 0.05  # chi2: cells are off their shares by 22%, root mean square
_MOST_NAMED = 4  # groups in a warning
_ROTATION = "A rotation is in the field"
_VARIANCE_IS = "The variance of the samples is"
_IS_TOLD = "is told from its noise"

Figures = Mapping[str, Figure]


def faults(figures: Figures, reading: Reading | None, shares: Shares | None, *, normal_source: bool) -> tuple[str, ...]:
    """A sentence or two for each fault that sampling error does not explain, the gravest first.

    Independent pairs have fields without a rotation if the noise is normal, and not else: then a rotation only says
    that the pairs are not optimal, which is no fault.
    """
    found = [] if reading is None else [_misread(reading)]
    found += _missing(figures, shares)
    dropped = len(found) > (reading is not None)
    found += _memorised(figures)
    if not dropped:
        found += _wide_or_narrow(figures, by_direction=reading is None)
    if not found and _is_off(figures, "energy_distance", FAR):
        found.append(
            "The samples are not the data: their energy distance is "
            f"{figures['energy_distance'].value:.2g} of the distance of two rows, and no single fault explains it."
        )
    rotation = _rotation(figures, marginals=not found) if normal_source else []
    return tuple(found + rotation + _leakage(figures))


def verdict_of(
    figures: Figures, warnings: tuple[str, ...], advice: str, misfit: float | None = None, missing: tuple[str, ...] = ()
) -> str:
    """One paragraph: faults, how near to optimal transport, how near to the data, what to do.

    ``misfit`` is chi2 of the fit that the exact flow is made of, if it is of one; ``missing`` are sentences on figures
    that were asked for and not measured.
    """
    if "recovered_drift" not in figures:
        return f"{' '.join(warnings)} {advice}"
    start = " ".join(warnings) if warnings else "No fault was found."
    parts = (start, *missing, _optimality(figures), _other_weights(misfit), _generation(figures), advice)
    return " ".join(part for part in parts if part)


def _other_weights(misfit: float | None) -> str:
    """Any fit is an exact flow, of rows with the masses of its cells for weights."""
    if misfit is None or misfit < _MISFIT:
        return ""
    return (
        f"The exact flow here is that of a fit with chi2 = {misfit:.2g}, whose rows have other weights than the data: "
        "figures against it include what that makes. Give a fit to a smaller tol."
    )


def advise(
    figures: Figures, warnings: tuple[str, ...], reading: Reading | None, step_grid: tuple[float, ...] = ()
) -> str:
    """The one thing to do first, and why; and at which times few steps are best."""
    if reading is not None:
        return f"To mend that, {reading.remedy}."
    if "recovered_drift" not in figures:
        return "Look at the field's values between t = 0 and t = 1 before anything else."
    if any("missing" in warning or "copies" in warning or "not the data" in warning for warning in warnings):
        return "Mend what it generates before its cost: a better coupling does not bring back what it leaves out."
    if any(_VARIANCE_IS in warning for warning in warnings):
        return (
            "Mend the variance first: average the weights over the last steps of training, or let the learning rate "
            "fall, since the last weights alone swing by some percent; and see that the data are in the units that the "
            "model was trained in."
        )
    if any(_IS_TOLD in warning for warning in warnings):
        return "Couple each class by itself (couplings.Conditional, or --conditional), or train for longer."
    one, four = figures["one_step_error"].value, figures["four_step_error"].value
    if any(_ROTATION in warning for warning in warnings):
        return "Take the rotation out: it lengthens every path and changes no sample's law."
    if one <= _ROUNDING:
        return "One step is enough: it is exact to rounding."
    if one <= _STRAIGHT:
        return f"One step is enough: it is off by {one:.2g} of the samples' deviation."
    if four <= _STRAIGHT:
        enough = f"Four steps are enough: they are off by {four:.2g} of the samples' deviation, one step by {one:.2g}."
        return enough + _times(figures, step_grid)
    off = f"one step is off by {one:.2g} of the samples' deviation and four by {four:.2g}"
    if _is_near(figures):
        return (
            f"Train for longer or at a smaller learning rate: {off}, which is no longer for lack of optimal pairs."
            f"{_times(figures, step_grid)}"
        )
    return (
        f"Train on optimal pairs (couplings.Semidiscrete, or larger assignments): {off}, where the exact flow has 0 in "
        f"one.{_times(figures, step_grid)}"
    )


def _is_near(figures: Figures) -> bool:
    """To optimal transport: targets hardly move on the way, and pairing points again would save hardly anything."""
    near = [figures[name].value < _STRAIGHT for name in ("recovered_drift", "repairing_gain") if name in figures]
    return all(near)


def _times(figures: Figures, step_grid: tuple[float, ...]) -> str:
    """At which times four steps are taken, judged on noise that they were not chosen by."""
    gain = figures.get("four_step_gain")
    if gain is None:
        return ""
    if not gain.high < 1 or gain.value > _AS_GOOD:
        return " Equal steps are as good as others of the same number."
    if gain.value > _WORTHWHILE:
        return f" Other times than equal ones would take off {1 - gain.value:.0%} of the error of four steps."
    times = ", ".join(f"{t:.3g}" for t in step_grid)
    return f" Four steps at times=[{times}] have {gain.value:.0%} of the error of equal ones."


def _is_off(figures: Figures, name: str, margin: float) -> bool:
    return name in figures and figures[name].excludes_exact(margin)


def _misread(reading: Reading) -> str:
    return (
        f"The field does not make the data as it stands, but another reading does: {reading.fault}. The figures here "
        "are those of the field read rightly."
    )


def _missing(figures: Figures, shares: Shares | None) -> list[str]:
    """Groups of the data that are not generated."""
    if shares is None:
        return []
    wanted = shares.right
    lost = [k for k in range(len(wanted)) if float(shares.upper[k]) < _DROPPED * float(wanted[k])]
    if not lost:
        return []
    names = ", ".join(
        f"{shares.names[k]} ({float(shares.found[k]):.1%} of samples, {float(wanted[k]):.1%} of data)"
        for k in lost[:_MOST_NAMED]
    )
    more = "" if len(lost) <= _MOST_NAMED else f" and {len(lost) - _MOST_NAMED} more"
    return [f"Modes are dropped: missing or less than half there {'is' if len(lost) == 1 else 'are'} {names}{more}."]


def _memorised(figures: Figures) -> list[str]:
    found = figures.get("nearest_row_ratio")
    if found is None or not found.high < _COPIES:
        return []
    return [
        f"Rows are memorised: samples are copies of training rows, at {found.value:.2g} of the distance that new rows "
        "have to their nearest one."
    ]


def _wide_or_narrow(figures: Figures, *, by_direction: bool) -> list[str]:
    """Of the variance in all; where that is right, along the principal directions.

    Of a field that was read otherwise the latter is not asked: several readings may make nearly the data, and which one
    was meant is not told by a direction.
    """
    if _is_off(figures, "variance_ratio", _VARIANCE):
        return [f"{_VARIANCE_IS} {_too_large_or_small(figures['variance_ratio'])}."]
    if not by_direction:
        return []
    off = [
        _too_large_or_small(found, f", along the {number} principal direction of the data")
        for k, number in enumerate(_DIRECTIONS, 1)
        if (found := figures.get(f"variance_ratio_{k}")) and found.excludes_exact(_VARIANCE, _OF_SEVERAL)
    ]
    return [f"{_VARIANCE_IS} {', and '.join(off)}; in all it is not told to be wrong."] if off else []


def _too_large_or_small(found: Figure, where: str = "") -> str:
    which = "large" if found.value > 1 else "small"
    return (
        f"too {which}, by {abs(found.value - 1):.0%}{where} "
        f"(95% interval of the ratio {found.low:.3g} to {found.high:.3g})"
    )


def _rotation(figures: Figures, *, marginals: bool) -> list[str]:
    if not _is_off(figures, "rotation", _TURN):
        return []
    found = figures["rotation"]
    seen = (
        "The samples are right: it moves points along the level sets of the density, and leaves the marginals alone."
        if marginals
        else "No field that is the gradient of a potential has this."
    )
    return [
        f"{_ROTATION}: an antisymmetric part that all trajectories have in common is {found.value:.0%} of the norm of "
        f"its Jacobian (95% interval {found.low:.0%} to {found.high:.0%}). {seen}"
    ]


def _optimality(figures: Figures) -> str:
    drift, gain, excess = (figures.get(name) for name in ("recovered_drift", "repairing_gain", "cost_excess"))
    moved = 0.0 if drift is None else drift.value
    saved = 0.0 if gain is None else gain.value
    if max(moved, saved) < _EXACT and not _is_off(figures, "jacobian_asymmetry", _SKEW):
        return (
            "It obeys the laws of exact optimal transport: targets do not move on the way, and no pairing costs less."
        )
    words = "near to optimal transport" if _is_near(figures) else "not optimal transport"
    mark = "" if drift is None or drift.independent is None else f" (independent pairs: {drift.independent:.2g})"
    gained = f", pairing its points again would save {saved:.1%}" if saved >= _NOTHING else ""
    return (
        f"It is {words}: the recovered data point moves by {moved:.2g} of the samples' deviation on the way"
        f"{mark}{gained}{_cost(excess)}.{_as_minibatches(figures)}"
    )


def _cost(excess: Figure | None) -> str:
    if excess is None:
        return ""
    side = "above" if excess.value >= 0 else "below"
    apart = "not told from" if excess.low <= 0 <= excess.high else f"{abs(excess.value):.1%} {side}"
    return f", and the cost is {apart} that of the exact flow"


def _as_minibatches(figures: Figures) -> str:
    found = figures.get("equivalent_batch")
    if found is None:
        return ""
    if found.high == math.inf:
        return f" Pairs of minibatches of at least {_size(found.low)} would leave as much error."
    if found.value <= 1:
        return " A perfect network of independent pairs would err as much, or less."
    if found.low <= 1 and found.value >= found.high:
        return f" Pairs of minibatches of {_size(found.value)} would leave as much error, or less."
    return (
        f" Pairs of minibatches of about {_size(found.value)} ({_size(found.low)} to {_size(found.high)}) would leave "
        "as much error."
    )


def _size(size: float) -> str:
    return f"{size:.1f}" if size < 10 else f"{size:.0f}"


def _generation(figures: Figures) -> str:
    distance, ratio = figures.get("energy_distance"), figures.get("variance_ratio")
    if distance is None or ratio is None:
        return ""
    apart = f"is {distance.value:.2g} of the distance of two rows" if distance.low > 0 else "is not told from 0"
    return (
        f"The energy distance of samples and data {apart}, and the variance of the samples is {ratio.value:.3f} times "
        "the right one."
    )


def _leakage(figures: Figures) -> list[str]:
    """Errors of training on thin data leak a little too."""
    found = figures.get("label_leakage")
    if found is None or not found.low > _TOLD:
        return []
    return [
        f"The class of a row {_IS_TOLD} in {found.value:.0%} of the cases more than by chance: classes were coupled "
        "together, or the model is not trained out; samples of a class then miss some of it."
    ]
