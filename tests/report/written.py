"""Pages to test: data, their fit and flow, and what was written about them."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from torch import Tensor

import proxflow as pf
from proxflow.report import render_page

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Parses a page and refuses one whose tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.source = text
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"style", "script"} & set(self.open):
            return
        self.text += data
        if {"th", "td"} & set(self.open) and "small" not in self.open:
            self.rows[-1][-1] += data

    def cell(self, name: str) -> str:
        (value,) = [row[1].strip() for row in self.rows if row[0].strip() == name]
        return value

    @property
    def names(self) -> set[str]:
        return {row[0].strip() for row in self.rows}

    def numbers(self, name: str) -> list[str]:
        text = self.cell(name).replace("95% interval", "").replace(",", "")
        return re.findall(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", text)

    def pictures(self) -> list[Image.Image]:
        """Those that are pixels."""
        sources = [a.get("src", a.get("href")) for tag, a in self.tags if tag in ("img", "image")]
        assert all(source.startswith("data:image/png;base64,") for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(s.partition(",")[2], validate=True))) for s in sources]

    @property
    def alts(self) -> list[str]:
        """What is said to those who do not see the figures."""
        return [attributes["aria-label"] for _, attributes in self.tags if attributes.get("role") == "img"]

    @property
    def headings(self) -> list[str]:
        return re.findall(r"<h2>([^<]*)</h2>", self.source)

    @staticmethod
    def drawings(text: str) -> list[ElementTree.Element]:
        """The drawings in a text, each well-formed by itself."""
        return [ElementTree.fromstring(part) for part in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]

    def panels(self) -> list[ElementTree.Element]:
        return self.drawings(self.source)

    def live(self) -> list[dict[str, Any]]:
        """What the script is told of figures."""
        found = re.findall(r'<script type="application/json">(.*?)</script>', self.source, re.DOTALL)
        return [json.loads(part) for part in found]


def same_number(shown: str, value: float) -> bool:
    """Whether ``shown`` is ``value`` to all the digits that are shown."""
    mantissa, _, exponent = shown.partition("e")
    last = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(shown) - value) <= 0.5 * last * (1 + 1e-9)


def dataset(tmp_path: Path, points: np.ndarray, name: str = "points", labels: Tensor | None = None) -> pf.data.Dataset:
    np.save(tmp_path / f"{name}.npy", points)
    return pf.data.load(tmp_path / f"{name}.npy")


def fitted(data: pf.data.Dataset, **options: Any) -> tuple[pf.semidiscrete.Fit, pf.ProximalFlow]:
    fit = pf.semidiscrete.fit(data.points, **({"tol": 0.5, "max_samples": 5000} | options))
    return fit, pf.ProximalFlow(fit.potential)


def page_of(data: pf.data.Dataset, **options: Any) -> Page:
    return Page(render_page(*fitted(data, **options), data))


def random_points(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


@dataclasses.dataclass(frozen=True)
class Written:
    """Data, their fit and flow, and the page about them."""

    data: pf.data.Dataset
    fit: pf.semidiscrete.Fit
    flow: pf.ProximalFlow
    text: str

    @property
    def page(self) -> Page:
        return Page(self.text)


def written(folder: Path, dim: int, **options: Any) -> Written:
    """About 30 rows, two of them equal."""
    points = random_points(30, dim)
    points[7] = points[3]
    data = dataset(folder, points)
    fit, flow = fitted(data, seed=5, **options)
    return Written(data, fit, flow, render_page(fit, flow, data, seed=5))
