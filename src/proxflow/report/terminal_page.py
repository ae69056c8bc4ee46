"""The page of a terminal study: how a field arrives at its data."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.analysis import TerminalSpectrum, TerminalStudy
from proxflow.data import Standardisation
from proxflow.report import terminal_figures as drawn
from proxflow.report.figures import image_grid, is_image
from proxflow.report.template import Picture, Row, Table, picture, render

__all__ = ["render_terminal_page", "study_warnings"]

_SHOWN = 10  # pictures of each kind
_ROUNDING = 1e-6  # of rates
_TWIST = 0.1  # share of |A|^2 that is antisymmetric; of a matrix without any symmetry it is a half


def render_terminal_page(
    study: TerminalStudy, standardisation: Standardisation, name: str, subject: str, command: str | None = None
) -> str:
    """One self-contained HTML page; ``subject`` says in a few words what field it is.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    warning = " ".join(study_warnings(study))
    dimension = study.dimension.dimension
    return render(
        name=name,
        title=f"How the flow arrives at {name}",
        good=not warning,
        verdict=warning
        or (
            f"At scale {study.dimension.scale:.3g} the field sees {float(dimension.mean()):.3g} dimensions of the data "
            f"on average, {float(dimension.min()):.3g} to {float(dimension.max()):.3g}."
        ),
        summary=(
            "In rescaled time, minus the logarithm of alpha(t), a flow that arrives at a manifold contracts across it "
            "at rate -1 and is neutral along it, at rate 0. Rates are the eigenvalues of the symmetric part of the "
            f"linearised field, along its own trajectories. The field is {subject}."
        ),
        heading="The study",
        rows=_rows(study, command),
        table=_rates_table(study.spectrum),
        pictures=[*_curves(study), *_samples(study, standardisation)],
    )


def study_warnings(study: TerminalStudy) -> list[str]:
    """What keeps the study from meaning what it seems to, a sentence or two each; none where nothing does."""
    return [warning for warning in (_memorised(study), _twisted(study)) if warning]


def _memorised(study: TerminalStudy) -> str:
    """Where single data points explain what the flow does."""
    below = study.dimension.below_spacing
    if below is None or not bool(below.any()):
        return ""
    share = float(below.double().mean())
    return (
        f"One data point alone explains {share:.0%} of the places looked at: the scale is below the spacing of the "
        "data. An exact flow memorises there, with rates of -1 and dimension 0: fit it with a larger --epsilon. A "
        "network interpolates there in its own way, which the data do not confirm: look at it at a larger --scale."
    )


def _twisted(study: TerminalStudy) -> str:
    """Where the field is far from any gradient, as that of an untrained network."""
    twist = float((0.5 * study.spectrum.asymmetry[-1]).square().mean())
    if not twist > _TWIST:
        return ""
    return (
        f"The antisymmetric part makes up {twist:.0%} of the squared Jacobian at the last time: this field is far from "
        "that of any optimal transport, whose Jacobian is symmetric, and the rates tell little. Train the network for "
        "longer, or look at earlier --times."
    )


def _rows(study: TerminalStudy, command: str | None) -> list[Row]:
    spectrum, perturbation, dimension = study.spectrum, study.perturbation, study.dimension
    which = "the most extreme" if spectrum.highest else "the whole spectrum"
    length = f"at t = {perturbation.time:g}, of length {perturbation.size:.3g}"
    normal, tangent = (f"{perturbation.survival[:, k].mean():.2g}" for k in (0, -1))
    asymmetry = float(spectrum.asymmetry[-1].mean())
    rows = [
        Row("initial points", "", f"{spectrum.rates.shape[1]:,}"),
        Row("rates", which, str(spectrum.rates.shape[2])),
        Row("asymmetry", "of the Jacobian at the last time; an optimal-transport flow has none", f"{asymmetry:.2g}"),
        Row(
            "local dimension", f"at scale {dimension.scale:.3g}, t = {dimension.time:.3g}", _spread(dimension.dimension)
        ),
        Row("normal perturbation", length, f"{normal} of it arrives"),
        Row("tangent perturbation", length, f"{tangent} of it arrives"),
        Row("seed", "", str(spectrum.seed)),
        Row("schedule", "", repr(spectrum.schedule)),
    ]
    return rows if command is None else [*rows, Row("command", "repeats this run", command)]


def _rates_table(spectrum: TerminalSpectrum) -> Table:
    rates = zip(spectrum.times.tolist(), spectrum.rates[..., 0], spectrum.rates[..., -1], strict=True)
    rows = tuple((f"{t:.4g}", _spread(lowest), _spread(highest)) for t, lowest, highest in rates)
    return Table("Rates, mean and deviation over the initial points", ("t", "lowest", "highest"), rows)


def _curves(study: TerminalStudy) -> list[Picture]:
    scales = picture(
        "Scales",
        "Widths of the data along the directions of the spectrum, as each time sees them: medians over the points. "
        "For an exact flow the curves agree; a network sees no width below what it resolves.",
        drawn.scales(study.spectrum),
    )
    return [
        picture(
            "Rates",
            "Each line is one rank of the spectrum, averaged over the initial points; shades: one standard deviation, "
            "of the outermost where there are many. A network has bounded derivatives: its rates fade to 0 at last.",
            drawn.rates(study.spectrum),
        ),
        *([scales] if _has_widths(study.spectrum) else []),
        picture("Local dimension", "Trace of the derivative of the proximal step.", drawn.dimensions(study.dimension)),
        picture(
            "Perturbations",
            "Each dot is one point moved along one direction and carried on to t = 1. Dots off the line: the "
            "perturbation was not small, or the field is no exact flow.",
            drawn.perturbations(study.perturbation),
        ),
    ]


def _has_widths(spectrum: TerminalSpectrum) -> bool:
    """Whether any direction keeps a width at half of the points; none does where a flow memorises."""
    return bool((spectrum.rates.median(1).values > -1 + _ROUNDING).any())


def _samples(study: TerminalStudy, standardisation: Standardisation) -> list[Picture]:
    ends, order = study.spectrum.points[-1], study.dimension.dimension.argsort()
    if not is_image(tuple(ends.shape[1:])):
        if ends.flatten(1).shape[1] < 2:
            return []
        caption = "Where trajectories end, coloured by local dimension."
        return [picture("Regularity", caption, drawn.regularity(study.dimension, ends))]
    chosen = torch.cat([order[:_SHOWN], order.flip(0)[:_SHOWN]])
    perturbation = study.perturbation
    moved = torch.cat([perturbation.unperturbed[:, None], perturbation.ends], 1)
    images = standardisation.undo(moved.flatten(0, 1)).reshape(moved.shape)
    caption = "First row: the samples of least local dimension; second row: of the largest."
    moved_caption = (
        "Each row: a sample as it is, then after a perturbation along the most normal and the most tangent directions."
    )
    shown = standardisation.undo(_finite(ends[chosen]))
    return [
        picture("Least and most dimensional samples", caption, image_grid(shown, min(_SHOWN, len(order)))),
        picture("Samples moved", moved_caption, drawn.moved_images(_finite(images))),
    ]


def _finite(values: Tensor) -> Tensor:
    return torch.nan_to_num(values)


def _spread(values: Tensor) -> str:
    return f"{float(values.mean()):.3g} \N{PLUS-MINUS SIGN} {float(values.std(correction=0)):.2g}"
