"""The report page: plain words, the certificate, and figures, in one HTML file without outside parts."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

import torch

import proxflow
from proxflow.data import Dataset
from proxflow.errors import MissingExtraError
from proxflow.flow import ProximalFlow
from proxflow.report import figures
from proxflow.schedules import Linear
from proxflow.semidiscrete import Fit

__all__ = ["render_page"]

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }} - proxflow</title>
<style>
body{font:16px/1.55 system-ui,sans-serif;color:#1f2933;max-width:52rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%;table-layout:fixed}
th,td{border-top:1px solid #e2e8f0;padding:.35rem .6rem;vertical-align:top;text-align:left;overflow-wrap:anywhere}
th{font-weight:normal;color:#52606d;width:38%}th small{display:block}
img{max-width:100%;height:auto;display:block}footer{color:#52606d;font-size:.9rem;margin-top:2.5rem}
.verdict{padding:.7rem 1rem;border-left:4px solid {{ "#15803d" if converged else "#c2410c" }};background:#f8fafc}
figcaption{color:#52606d;font-size:.9rem;margin-top:.5rem}figure{margin:1rem 0}
</style></head><body>
<h1>The exact optimal-transport flow of {{ name }}</h1>
<p class="verdict">{{ verdict }}</p>
<p>{{ summary }}</p>
<h2>Certificate</h2>
<table>{% for row in rows %}
<tr><th scope="row">{{ row.name }}{% if row.meaning %}<small>{{ row.meaning }}</small>{% endif %}</th>
<td>{{ row.value }}</td></tr>{% endfor %}
</table>
{% for picture in pictures %}
<h2>{{ picture.title }}</h2>
<figure><img alt="{{ picture.title }}" src="data:image/png;base64,{{ picture.data }}">
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}
<footer>Made by proxflow {{ version }}.</footer>
</body></html>
"""


@dataclass(frozen=True)
class _Row:
    name: str
    meaning: str
    value: str


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
        summary=_summary(flow, dataset),
        rows=_certificate(fit, flow, dataset),
        version=proxflow.__version__,
        pictures=_pictures(fit, flow, dataset, seed),
    )


def _verdict(fit: Fit) -> str:
    upper = max(fit.chi2 + 2 * fit.chi2_stderr, 0.0)
    if len(fit.potential.points) == 1:
        return "Exact: there is one data point, and it receives all of the noise."
    if fit.converged:
        return (
            f"Converged: the shares of the noise that the data points receive have a relative error of at most "
            f"{math.sqrt(upper):.1%} (root mean square; χ² plus two standard errors is {upper:.3g}, the tolerance "
            f"{fit.tol:g})."
        )
    return (
        f"Not converged: χ² plus two standard errors is {upper:.3g}, above the tolerance {fit.tol:g}. The shares of "
        f"the noise that the data points receive have a relative error of up to {math.sqrt(upper):.1%} (root mean "
        "square). The flow is still exactly optimal for the shares that they do receive."
    )


def _summary(flow: ProximalFlow, dataset: Dataset) -> str:
    path = "a straight line" if isinstance(flow.schedule, Linear) else "a path set by the schedule"
    count = "The one point" if dataset.n == 1 else f"The {dataset.n:,} points"
    return (
        f"{count} of {dataset.name} and Gaussian noise were joined by optimal transport: the pairing of least mean "
        f"squared distance. Every noise point travels along {path} to one data point. The velocity at any place and "
        "time is computed exactly, with an error bound. The flow ends on the data themselves: it is a reference, a "
        "teacher and a coupling for training, not a generator of new samples."
    )


def _certificate(fit: Fit, flow: ProximalFlow, dataset: Dataset) -> list[_Row]:
    low, high = fit.transport_cost_interval
    atoms = len(fit.potential.points)
    shape = " x ".join(str(size) for size in dataset.event_shape)
    efficiency = f"{fit.chi2 * fit.samples_used / atoms:.2f}" if fit.samples_used else "exact"
    return [
        _Row("points", "", f"{dataset.n:,}"),
        _Row("atoms", "distinct points", f"{atoms:,}"),
        _Row("dimension", "", f"{fit.potential.dim} ({shape})" if len(dataset.event_shape) > 1 else shape),
        _Row("χ²", "mean squared relative error of the shares of noise", f"{fit.chi2:.4g} ± {fit.chi2_stderr:.2g}"),
        _Row("tolerance", "on χ² plus two standard errors", f"{fit.tol:g}"),
        _Row("χ² x draws / atoms", "1 is the statistical limit", efficiency),
        _Row(
            "transport cost W₂²",
            "mean squared distance from noise to data, standardised",
            f"{fit.transport_cost:.6g}, 95% interval [{low:.6g}, {high:.6g}]",
        ),
        _Row("noise draws to fit", "", f"{fit.samples_used:,}"),
        _Row("noise draws to evaluate", "", f"{fit.evaluation_samples:,}"),
        _Row("time", "", f"{fit.seconds:.2f} s"),
        _Row("seed", "", str(fit.seed)),
        _Row("schedule", "", repr(flow.schedule)),
        _Row("data, SHA-256", "before standardisation", dataset.content_hash),
    ]


def _pictures(fit: Fit, flow: ProximalFlow, dataset: Dataset, seed: int) -> list[_Picture]:
    def draws() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    pictures = [
        _picture(
            "From noise to data",
            _paths_caption(dataset.dim),
            figures.trajectories(flow, dataset, draws()),
        )
    ]
    if figures.is_image(dataset.event_shape):
        pictures.append(
            _picture(
                "Images along the flow",
                "Each row is one trajectory, from noise (left) to the data image that it ends on (right). Black and "
                "white are the least and the largest value of the data.",
                figures.path_images(flow, dataset, draws()),
            )
        )
    if fit.history:
        pictures.append(
            _picture(
                "Convergence",
                "Error of the shares while the fit ran, measured on fresh noise. The fit stops when the upper end of "
                "the bar is below the tolerance.",
                figures.convergence(fit),
            )
        )
    pictures.append(
        _picture(
            "Weights of the atoms",
            "How much noise each data point receives, relative to its weight in the data. The noise is counted, so "
            "some of the spread is counting noise.",
            figures.atom_weights(fit),
        )
    )
    return pictures


def _paths_caption(dim: int) -> str:
    if dim == 1:
        return "Exact trajectories of the flow over time. They never meet before t = 1."
    if dim == 2:
        return "Exact trajectories of the flow. Two of them are never at one place at one time before t = 1."
    return (
        "Exact trajectories of the flow, seen in the plane of the two largest variances. In the full space two of "
        "them are never at one place at one time before t = 1."
    )


def _picture(title: str, caption: str, png: bytes) -> _Picture:
    return _Picture(title, caption, base64.b64encode(png).decode("ascii"))
