"""The report page: plain words, the certificate, and figures, in one HTML file without outside parts."""

from __future__ import annotations

import torch

from proxflow.data import Dataset
from proxflow.flow import ProximalFlow
from proxflow.report import figures, wording
from proxflow.report.table_rows import certificate, origin
from proxflow.report.template import Picture, picture, render
from proxflow.seeding import generator_of
from proxflow.semidiscrete import Fit

__all__ = ["render_page"]

_VISIBLE = 0.02  # relative to the weight


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
        heading="Certificate",
        rows=[*certificate(fit, flow, dataset), *origin(dataset, command)],
        pictures=_pictures(fit, flow, dataset, seed),
    )


def _pictures(fit: Fit, flow: ProximalFlow, dataset: Dataset, seed: int) -> list[Picture]:
    def draws() -> torch.Generator:
        return generator_of(seed)

    pictures = [
        picture("From noise to data", wording.path_caption(dataset.dim), figures.trajectories(flow, dataset, draws()))
    ]
    if figures.is_image(dataset.event_shape):
        pictures.append(
            picture("Images along the flow", wording.image_caption(fit), figures.path_images(flow, dataset, draws()))
        )
    if _has_convergence(fit):
        pictures.append(picture("Convergence", wording.convergence_caption(fit), figures.convergence(fit)))
    if _has_spread(fit):
        pictures.append(picture("Shares of the noise", wording.share_caption(fit), figures.noise_shares(fit)))
    return pictures


def _has_convergence(fit: Fit) -> bool:
    """Quantiles and single atoms take no steps; a Newton run gone on with after its last step takes none anew."""
    return fit.method == "averaged gradient" or (fit.method == "damped Newton" and len(fit.history) > 1)


def _has_spread(fit: Fit) -> bool:
    """Whether the shares of an exact fit differ from the weights by more than can be seen."""
    deviation = fit.cell_mass.cpu() / fit.potential.weights.double().cpu() - 1
    return not wording.is_exact(fit) or float(deviation.abs().max()) > _VISIBLE
