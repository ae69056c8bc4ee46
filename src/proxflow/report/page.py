"""The report page: plain words, the certificate, and figures, in one HTML file without outside parts."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import torch

from proxflow.data import Dataset
from proxflow.errors import MissingExtraError
from proxflow.flow import ProximalFlow
from proxflow.report import figures
from proxflow.semidiscrete import Fit

__all__ = ["render_page"]

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }} - proxflow</title>
<style>
body{font:16px/1.55 system-ui,sans-serif;color:#1f2933;max-width:52rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%}td{border-top:1px solid #e2e8f0;padding:.35rem .6rem;vertical-align:top}
td:first-child{color:#52606d;width:45%}img{max-width:100%;height:auto}
.verdict{padding:.7rem 1rem;border-left:4px solid {{ "#15803d" if converged else "#c2410c" }};background:#f8fafc}
figcaption{color:#52606d;font-size:.9rem}figure{margin:1rem 0}
</style></head><body>
<h1>The exact OT-CFM flow of {{ name }}</h1>
<p class="verdict">{{ verdict }}</p>
<p>{{ summary }}</p>
<h2>Certificate</h2>
<table>{% for row in rows %}<tr><td>{{ row[0] }}</td><td>{{ row[1] }}</td></tr>{% endfor %}</table>
{% for picture in pictures %}
<h2>{{ picture.title }}</h2>
<figure><img alt="{{ picture.title }}" src="data:image/png;base64,{{ picture.data }}">
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}
</body></html>
"""


@dataclass(frozen=True)
class _Picture:
    title: str
    caption: str
    data: str


def render_page(fit: Fit, flow: ProximalFlow, dataset: Dataset, *, seed: int = 0) -> str:
    """One self-contained HTML page about a fitted flow.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "report") from error
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_TEMPLATE)
    return template.render(
        name=dataset.name,
        converged=fit.converged,
        verdict=_verdict(fit),
        summary=_summary(fit, dataset),
        rows=_certificate(fit, flow, dataset),
        pictures=_pictures(fit, flow, dataset, seed),
    )


def _verdict(fit: Fit) -> str:
    upper = max(fit.chi2 + 2 * fit.chi2_stderr, 0.0)
    if fit.converged:
        return (
            f"Converged: the squared relative error of the atoms' weights is {upper:.2%} at most on average "
            f"(chi2 plus two standard errors), within the tolerance of {fit.tol:.2%}."
        )
    return (
        f"Not converged: chi2 plus two standard errors is {upper:.3g}, above the tolerance of {fit.tol:g}. The flow "
        "is still exactly optimal, for atoms weighted by the measured cell masses."
    )


def _summary(fit: Fit, dataset: Dataset) -> str:
    return (
        f"The {dataset.n:,} points of {dataset.name} were joined to Gaussian noise by the optimal transport of least "
        "squared distance. Every noise point travels along a straight line to one data point, and each data point "
        "receives its own share of the noise. The velocity at any place and time is computed exactly, with an error "
        "bound. The flow ends on the data themselves: it is a reference, a teacher and a coupling for training, not a "
        "generator of new samples."
    )


def _certificate(fit: Fit, flow: ProximalFlow, dataset: Dataset) -> list[tuple[str, str]]:
    low, high = fit.transport_cost_interval
    atoms = len(fit.potential.points)
    efficiency = f"{fit.chi2 * fit.samples_used / atoms:.2f}" if fit.samples_used else "exact"
    return [
        ("points, distinct atoms, dimension", f"{dataset.n:,}, {atoms:,}, {fit.potential.dim}"),
        ("chi2 of the atoms' weights", f"{fit.chi2:.4g} +- {fit.chi2_stderr:.2g} (tolerance {fit.tol:g})"),
        ("chi2 x draws / atoms (1 is the statistical limit)", efficiency),
        ("transport cost W2^2 (standardised data)", f"{fit.transport_cost:.6g}, 95% interval [{low:.6g}, {high:.6g}]"),
        ("noise draws: to fit, to evaluate", f"{fit.samples_used:,}, {fit.evaluation_samples:,}"),
        ("seconds, seed", f"{fit.seconds:.1f}, {fit.seed}"),
        ("schedule", repr(flow.schedule)),
        ("SHA-256 of the data", dataset.content_hash),
    ]


def _pictures(fit: Fit, flow: ProximalFlow, dataset: Dataset, seed: int) -> list[_Picture]:
    def draws() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    pictures = [
        _picture(
            "From noise to data",
            "Exact trajectories of the flow in the plane of the two largest variances. Paths that cross here do not "
            "cross in the full space.",
            figures.trajectories(flow, dataset, draws()),
        )
    ]
    if figures.is_image(dataset.event_shape):
        pictures.append(
            _picture(
                "Images along the flow",
                "Each row is one trajectory, from noise to the data image that it ends on.",
                figures.path_images(flow, dataset, draws()),
            )
        )
    if fit.history:
        pictures.append(
            _picture("Convergence", "Error of the weights, measured on fresh noise.", figures.convergence(fit))
        )
    pictures.append(
        _picture("Weights of the atoms", "How much noise each data point receives.", figures.atom_weights(fit))
    )
    return pictures


def _picture(title: str, caption: str, png: bytes) -> _Picture:
    return _Picture(title, caption, base64.b64encode(png).decode("ascii"))
