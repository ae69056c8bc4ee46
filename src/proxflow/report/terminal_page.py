"""The page of a terminal study: how a field arrives at its data."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.analysis import TerminalSpectrum, TerminalStudy
from proxflow.data import Standardisation
from proxflow.report import terminal_figures as drawn
from proxflow.report.figures import image_panel, is_image
from proxflow.report.template import Facts, Picture, Row, Table, render

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
        sections=[
            *_curves(study),
            *_samples(study, standardisation),
            _rates_table(study.spectrum),
            Facts("The study", tuple(_rows(study, command))),
        ],
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
    return rows if command is None else [*rows, Row("command", "repeats this run", command, is_command=True)]


def _rates_table(spectrum: TerminalSpectrum) -> Table:
    rates = zip(spectrum.times.tolist(), spectrum.rates[..., 0], spectrum.rates[..., -1], strict=True)
    rows = tuple((f"{t:.4g}", _spread(lowest), _spread(highest)) for t, lowest, highest in rates)
    return Table("Rates, mean and deviation over the initial points", ("t", "lowest", "highest"), rows)


def _curves(study: TerminalStudy) -> list[Picture]:
    spectrum, perturbation = study.spectrum, study.perturbation
    survival = perturbation.survival.double().cpu()
    normal, tangent = (f"{float(survival[:, k].mean()):.2g}" for k in (0, -1))
    rates = Picture(
        "Rates",
        f"Lines of {spectrum.rates.shape[2]} rates over rescaled time. {_ends(spectrum, 0)}; {_ends(spectrum, -1)}.",
        "Each line is one rank of the spectrum, averaged over the initial points; shades: one standard deviation, "
        "of the outermost where there are many. A network has bounded derivatives: its rates fade to 0 at last.",
        (drawn.rates(spectrum),),
    )
    dimensions = Picture(
        "Local dimension",
        f"Histogram of {len(study.dimension.dimension):,} local dimensions, {_spread(study.dimension.dimension)}.",
        "Trace of the derivative of the proximal step.",
        (drawn.dimensions(study.dimension),),
    )
    perturbations = Picture(
        "Perturbations",
        f"Dots: of the most normal perturbations {normal} arrives on average, of the most tangent ones {tangent}.",
        "Each dot is one point moved along one direction and carried on to t = 1. Dots off the line: the "
        "perturbation was not small, or the field is no exact flow.",
        (drawn.perturbations(perturbation),),
    )
    return [rates, *_widths(spectrum), dimensions, perturbations]


def _ends(spectrum: TerminalSpectrum, rank: int) -> str:
    first, last = spectrum.times[[0, -1]].tolist()
    values = spectrum.rates[[0, -1], :, rank].mean(1).tolist()
    name = "lowest" if rank == 0 else "highest"
    return f"The {name} goes from {values[0]:.2f} at t = {first:g} to {values[1]:.2f} at t = {last:g}"


def _widths(spectrum: TerminalSpectrum) -> list[Picture]:
    if not _has_widths(spectrum):
        return []
    return [
        Picture(
            "Scales",
            f"Lines of local widths by direction, the widest first, one line for each of {len(spectrum.times)} times.",
            "Widths of the data along the directions of the spectrum, as each time sees them: medians over the points. "
            "For an exact flow the curves agree; a network sees no width below what it resolves.",
            (drawn.scales(spectrum),),
        )
    ]


def _has_widths(spectrum: TerminalSpectrum) -> bool:
    """Whether any direction keeps a width at half of the points; none does where a flow memorises."""
    return bool((spectrum.rates.median(1).values > -1 + _ROUNDING).any())


def _samples(study: TerminalStudy, standardisation: Standardisation) -> list[Picture]:
    ends, order = study.spectrum.points[-1], study.dimension.dimension.argsort()
    if is_image(tuple(ends.shape[1:])):
        return [_extremes(study, ends, order, standardisation), _moved(study, standardisation)]
    if ends.flatten(1).shape[1] < 2:
        return []
    alt = f"{len(ends):,} dots, coloured from {float(study.dimension.dimension.min()):.3g} to "
    alt += f"{float(study.dimension.dimension.max()):.3g} dimensions."
    caption = "Where trajectories end, coloured by local dimension."
    return [Picture("Regularity", alt, caption, (drawn.regularity(study.dimension, ends),))]


def _extremes(study: TerminalStudy, ends: Tensor, order: Tensor, standardisation: Standardisation) -> Picture:
    chosen = torch.cat([order[:_SHOWN], order.flip(0)[:_SHOWN]])
    images = standardisation.undo(_finite(ends[chosen]))
    values = study.dimension.dimension[chosen].tolist()
    count = min(_SHOWN, len(order))
    return Picture(
        "Least and most dimensional samples",
        f"{count} samples of local dimension {values[0]:.3g} to {values[count - 1]:.3g} above {count} of "
        f"{values[count]:.3g} to {values[-1]:.3g}.",
        "First row: the samples of least local dimension; second row: of the largest.",
        (image_panel("extremes", images, count, limits=_limits(images), row_names=("least", "most")),),
    )


def _moved(study: TerminalStudy, standardisation: Standardisation) -> Picture:
    perturbation = study.perturbation
    moved = torch.cat([perturbation.unperturbed[:, None], perturbation.ends], 1)
    images = standardisation.undo(_finite(moved.flatten(0, 1)))
    low = (moved.shape[1] - 1) // 2
    titles = ["as it is", *["normal"] * low, *["tangent"] * (moved.shape[1] - 1 - low)]
    return Picture(
        "Samples moved",
        f"{len(moved)} rows: a sample, then after {low} normal and {len(titles) - 1 - low} tangent perturbations.",
        "Each row: a sample as it is, then after a perturbation along the most normal and the most tangent directions.",
        (image_panel("moved", images, len(titles), limits=_limits(images), titles=titles),),
    )


def _limits(images: Tensor) -> tuple[float, float]:
    return float(images.min()), float(images.max())


def _finite(values: Tensor) -> Tensor:
    return torch.nan_to_num(values)


def _spread(values: Tensor) -> str:
    return f"{float(values.mean()):.3g} \N{PLUS-MINUS SIGN} {float(values.std(correction=0)):.2g}"
