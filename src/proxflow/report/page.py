"""The report page: plain words, the certificate, and figures, in one HTML file without outside parts."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import torch

import proxflow
from proxflow.data import Dataset
from proxflow.errors import MissingExtraError
from proxflow.flow import ProximalFlow
from proxflow.report import figures, wording
from proxflow.report.certificate import certificate, origin
from proxflow.semidiscrete import Fit

__all__ = ["render_page"]

_VISIBLE = 0.02  # relative to the weight

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
<h1>{{ title }}</h1>
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
class _Picture:
    title: str
    caption: str
    data: str


def render_page(fit: Fit, flow: ProximalFlow, dataset: Dataset, *, seed: int = 0, command: str | None = None) -> str:
    """One self-contained HTML page about a fitted flow; ``command`` is the command line that repeats it.

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
        title=wording.title(fit, dataset),
        converged=fit.converged,
        verdict=wording.verdict(fit),
        summary=wording.summary(fit, flow, dataset),
        rows=[*certificate(fit, flow, dataset), *origin(dataset, command)],
        version=proxflow.__version__,
        pictures=_pictures(fit, flow, dataset, seed),
    )


def _pictures(fit: Fit, flow: ProximalFlow, dataset: Dataset, seed: int) -> list[_Picture]:
    def draws() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    pictures = [
        _picture("From noise to data", wording.path_caption(dataset.dim), figures.trajectories(flow, dataset, draws()))
    ]
    if figures.is_image(dataset.event_shape):
        pictures.append(
            _picture("Images along the flow", wording.image_caption(fit), figures.path_images(flow, dataset, draws()))
        )
    if _has_convergence(fit):
        pictures.append(_picture("Convergence", wording.convergence_caption(fit), figures.convergence(fit)))
    if _has_spread(fit):
        pictures.append(_picture("Shares of the noise", wording.share_caption(fit), figures.noise_shares(fit)))
    return pictures


def _has_convergence(fit: Fit) -> bool:
    """Quantiles and single atoms take no steps; a Newton run gone on with after its last step takes none anew."""
    return fit.method == "averaged gradient" or (fit.method == "damped Newton" and len(fit.history) > 1)


def _has_spread(fit: Fit) -> bool:
    """Whether the shares of an exact fit differ from the weights by more than can be seen."""
    deviation = fit.cell_mass.cpu() / fit.potential.weights.double().cpu() - 1
    return not wording.is_exact(fit) or float(deviation.abs().max()) > _VISIBLE


def _picture(title: str, caption: str, png: bytes) -> _Picture:
    return _Picture(title, caption, base64.b64encode(png).decode("ascii"))
