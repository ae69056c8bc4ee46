"""The page of a fit: plain words, the certificate, and figures, in one HTML file without outside parts."""

from __future__ import annotations

from proxflow.data import Dataset
from proxflow.flow import ProximalFlow
from proxflow.measures import draw
from proxflow.report import fit_figures, wording
from proxflow.report.column_comparison import column_table, marginals
from proxflow.report.descriptions import is_table
from proxflow.report.figures import is_image
from proxflow.report.noise_to_data import trajectory_images, trajectory_picture, ways_of
from proxflow.report.table_rows import certificate, origin
from proxflow.report.template import Facts, Picture, Table, render
from proxflow.seeding import generator_of
from proxflow.semidiscrete import Fit

__all__ = ["render_page"]

_VISIBLE = 0.02  # relative to the weight
_COMPARED = 2000  # samples of the flow, beside the columns of a table
_SAMPLES = 1  # with a 0 it numbers the generator of these, apart from those of the fit


def render_page(fit: Fit, flow: ProximalFlow, dataset: Dataset, *, seed: int = 0, command: str | None = None) -> str:
    """One self-contained HTML page about a fitted flow; ``command`` is the command line that repeats it.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    return render(
        name=dataset.name,
        title=wording.title(fit, dataset),
        good=fit.converged,
        verdict=wording.verdict(fit),
        summary=wording.summary(fit, flow, dataset),
        sections=[
            *_trajectories(fit, flow, dataset, seed),
            *_columns(fit, flow, dataset, seed),
            *_charts(fit),
            Facts("Certificate", tuple(certificate(fit, flow, dataset))),
            Facts("Origin", tuple(origin(dataset, command))),
        ],
    )


def _trajectories(fit: Fit, flow: ProximalFlow, dataset: Dataset, seed: int) -> list[Picture]:
    ways = ways_of(fit, flow, dataset, generator_of(seed))
    pictures = [trajectory_picture(ways, dataset, seed)]
    if is_image(dataset.event_shape):
        pictures.append(trajectory_images(ways, dataset, wording.image_caption(fit)))
    return pictures


def _columns(fit: Fit, flow: ProximalFlow, dataset: Dataset, seed: int) -> list[Picture | Table]:
    """Of a table: its columns, beside those of the flow's samples."""
    if not is_table(dataset):
        return []
    noise = draw(
        flow.potential.source,
        _COMPARED,
        generator_of(seed, _SAMPLES, 0),
        dataset.points.dtype,
        dataset.points.device,
    )
    ends = "means of rows" if fit.epsilon > 0 else "themselves rows of the data"
    what = f"{_COMPARED:,} samples of the flow, which are {ends}"
    samples = flow.transport(noise).reshape(-1, *dataset.event_shape)
    return [marginals(dataset, samples, what), column_table(dataset, samples, None, what)]


def _charts(fit: Fit) -> list[Picture]:
    pictures = []
    if _has_convergence(fit):
        pictures.append(
            Picture(
                "Convergence", _convergence_alt(fit), wording.convergence_caption(fit), (fit_figures.convergence(fit),)
            )
        )
    if _has_spread(fit):
        ratio = fit.cell_mass.double().cpu() / fit.potential.weights.double().cpu()
        alt = (
            f"Histogram of {len(ratio):,} atoms: they receive {float(ratio.min()):.3g} to {float(ratio.max()):.3g} of "
            f"their weight, with a standard deviation of {float(ratio.std(correction=0)):.2g}."
        )
        pictures.append(
            Picture("Shares of the noise", alt, wording.share_caption(fit), (fit_figures.noise_shares(fit),))
        )
    return pictures


def _convergence_alt(fit: Fit) -> str:
    first, last = fit.history[0].chi2, fit.history[-1].chi2
    steps = f"{len(fit.history) - 1} Newton steps" if fit.samples_used == 0 else f"{fit.samples_used:,} samples"
    return f"χ² falls from {first:.2g} to {last:.2g} in {steps}; the tolerance is {fit.tol:g}."


def _has_convergence(fit: Fit) -> bool:
    """Quantiles and single atoms take no steps; a Newton run gone on with after its last step takes none anew."""
    return fit.method == "averaged gradient" or (fit.method == "damped Newton" and len(fit.history) > 1)


def _has_spread(fit: Fit) -> bool:
    """Whether the shares of an exact fit differ from the weights by more than can be seen."""
    deviation = fit.cell_mass.cpu() / fit.potential.weights.double().cpu() - 1
    return not wording.is_exact(fit) or float(deviation.abs().max()) > _VISIBLE
