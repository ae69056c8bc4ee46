"""Pages in a browser: nothing is complained of, the slider moves the points, and a point says what it is."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import proxflow as pf
from proxflow.report import render_audit_page, render_comparison_page, render_page, render_training_page
from proxflow.report.compared_audits import compared_audits
from tests.report.run_records import audit_record
from tests.report.written import fitted

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")]

ARGUMENTS = {"coupling": "independent", "network": "mlp", "conditional": False, "batch_size": 8, "schedule": "linear"}
PROBE = """<script>
{
  const slider = document.querySelector(".slider"), input = slider.querySelector("input");
  const marks = () => [...document.querySelectorAll('[data-points="NAME"] use')];
  const places = () => marks().map((mark) => [mark.getAttribute("x"), mark.getAttribute("y")].map(Number));
  const seen = { shown: !slider.hidden, start: places(), wide: document.documentElement.scrollWidth > innerWidth };
  for (const t of [0, 0.5, 1]) {
    input.value = t;
    input.dispatchEvent(new Event("input"));
    seen[t] = places();
  }
  const box = marks()[0].getBoundingClientRect();
  const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true };
  marks()[0].ownerSVGElement.dispatchEvent(new PointerEvent("pointermove", at));
  seen.tip = document.querySelector(".tip").textContent;
  seen.buttons = [...document.querySelectorAll("button")].map((button) => button.textContent);
  document.body.innerHTML = "<pre id=seen></pre>";
  document.querySelector("#seen").textContent = JSON.stringify(seen);
}
</script></body>"""


WIDTHS = """<script>
{
  const wide = document.documentElement.scrollWidth > innerWidth;
  const seen = { wide, terms: document.querySelectorAll("dt").length };
  document.body.innerHTML = "<pre id=seen></pre>";
  document.querySelector("#seen").textContent = JSON.stringify(seen);
}
</script></body>"""


def looked_at(page: str, probe: str, folder: Path, width: int) -> dict[str, Any]:
    """What the script finds in the page."""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", probe))
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={width},800",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert "CONSOLE" not in done.stderr
    return json.loads(html.unescape(re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout)[0]))


@pytest.mark.parametrize("width", [1000, 500])
def test_the_slider_moves_noise_to_the_data(tmp_path: Path, width: int) -> None:
    data = pf.data.load("moons", n=60)
    fit, flow = fitted(data)
    page = render_page(fit, flow, data, command="proxflow fit moons")
    seen = looked_at(page, PROBE.replace("NAME", "moving"), tmp_path, width)
    assert seen["shown"]
    assert not seen["wide"]  # no part of the page is wider than the window
    first, middle, last = (torch.tensor(seen[t]) for t in ("0", "0.5", "1"))
    assert (torch.tensor(seen["start"]) - first).abs().max() < 0.1
    assert (middle - (first + last) / 2).abs().max() < 0.2
    assert (last - first).abs().max() > 10
    assert "row " in seen["tip"]
    assert seen["buttons"] == ["Copy"]


def test_samples_of_images_move(tmp_path: Path) -> None:
    data = pf.data.load("digits", n=60)
    torch.manual_seed(0)
    network = pf.matching.MLP(data.event_shape, width=8, depth=1)
    result = pf.matching.train(network, pf.couplings.Independent(data.points), steps=2, batch_size=8, progress=False)
    comparison = result.few_steps(data.points, count=50, steps=(1, 2))
    page = render_training_page(result, comparison, data, ARGUMENTS)
    seen = looked_at(page, PROBE.replace("NAME", "plane-samples-0"), tmp_path, 1000)
    assert (torch.tensor(seen["0"]) - torch.tensor(seen["1"])).abs().max() > 1
    assert (torch.tensor(seen["start"]) - torch.tensor(seen["1"])).abs().max() < 0.1
    assert "sample " in seen["tip"]


@pytest.mark.parametrize("width", [1280, 500])
def test_audits_and_their_comparisons_fit_the_window(tmp_path: Path, width: int) -> None:
    rows = pf.data.load("moons", n=60).points
    found = pf.analysis.audit(pf.IndependentField(rows), rows, data=rows, count=64, steps=8, progress=False)
    seen = looked_at(
        render_audit_page(found, "moons", "independent pairs", "proxflow audit x"), WIDTHS, tmp_path, width
    )
    assert seen == {"wide": False, "terms": len(found.figures)}
    records = [audit_record(dict.fromkeys(found.figures, (0.1 * k, 0.01))) for k in range(4)]
    names = [f"runs/of-a-long-name-{k}" for k in range(4)]
    page = render_comparison_page(compared_audits(names, records), names)
    assert not looked_at(page, WIDTHS, tmp_path, width)["wide"]
