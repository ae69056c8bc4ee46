"""The code shown in the README and the documentation runs."""

from __future__ import annotations

import importlib.util
import re
from functools import reduce
from pathlib import Path

import pytest

import proxflow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


SLOW_PAGES = ("README.md", "couplings.md", "fitting.md", "migrating.md", "training.md")


def _marked(page: Path) -> object:
    """Pages that fit and train for long, or run every peer, are slow."""
    return pytest.param(page, marks=pytest.mark.slow) if page.name in SLOW_PAGES else page


def imported(page: Path) -> set[str]:
    return set(re.findall(r"^(?:import|from) (\w+)", "".join(blocks(page)), flags=re.MULTILINE))


@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")  # Lightning's
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained")  # OTT's
@pytest.mark.parametrize("page", [_marked(page) for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_code_of_a_page_runs_from_top_to_bottom(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = [name for name in imported(page) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    namespace: dict[str, object] = {}
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(((?!https?://|#)[^)]+)\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target.split("#")[0]).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_and_tests_that_a_page_mentions_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`pf\.([A-Za-z_.]+)[`(]", text):
        assert reduce(getattr, name.split("."), proxflow) is not None
    missing = [path for path in re.findall(r"`((?:tests|benchmarks|docs)/[\w/.]+)", text) if not (ROOT / path).exists()]
    assert missing == []


def test_sections_of_the_theory_that_the_code_names_exist() -> None:
    headings = re.findall(r"^## (\d)\. ", (ROOT / "docs" / "theory.md").read_text(), re.MULTILINE)
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        assert set(re.findall(r"theory\.md (\d)", path.read_text())) <= set(headings), path
