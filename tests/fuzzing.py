"""What fuzz tests share: how many calls there are, how they are made and counted, and which errors are good ones."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from torch import Tensor

from proxflow.errors import ConvergenceError

CALLS = int(os.environ.get("PROXFLOW_FUZZ", "200"))
FLOATS = (torch.float32, torch.float64)
EXPONENTS = (0, 0, 0, 0, -3, 3, -8, 8, -15, 15, -19, 19, -25, 25, -30, 30)
OUTCOMES: Counter[str] = Counter()


def calls(share: float, seconds: float = 5) -> settings:
    return settings(
        max_examples=math.ceil(share * CALLS),
        deadline=timedelta(seconds=seconds),
        derandomize=True,
        database=None,
        print_blob=False,
        phases=(Phase.generate,),  # to shrink a failure takes minutes, and its seed and scales are printed
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def report(request: pytest.FixtureRequest) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    ends = ", ".join(f"{count} {end}" for end, count in sorted(OUTCOMES.items()))
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nfuzz: {sum(OUTCOMES.values())} calls: {ends}")
    OUTCOMES.clear()


class Maker:
    """Tensors from hypothesis's choices: a seed and a scale shrink well, entries need not."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16), label="seed"))

    def pick(self, *options: Any) -> Any:
        return self.data.draw(st.sampled_from(options))

    def whole(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def chance(self, one_in: int) -> bool:
        return self.data.draw(st.integers(1, one_in)) == one_in

    def scale(self) -> float:
        return 10.0 ** self.data.draw(st.sampled_from(EXPONENTS), label="exponent")

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def rows(self, dim: int, dtype: torch.dtype, near: float) -> Tensor:
        """Queries at a scale of their own or that of the data, with ties, zeros and broken rows."""
        count = self.data.draw(st.integers(0, 5), label="rows")
        x = self.normal(count, dim) * (near if self.chance(2) else self.scale())
        if count and self.chance(4):
            x[0] = 0.0
        if count > 1 and self.chance(4):
            x[1] = x[0]
        if count > 1 and self.chance(6):
            x[1] *= self.scale()
        if count and self.chance(4):
            x[-1, self.whole(0, dim - 1)] = self.pick(math.nan, math.inf, -math.inf)
        return x.to(dtype)

    def misfit(self, x: Tensor) -> Tensor:
        """Rows that no method may accept."""
        return self.pick(
            torch.cat([x, x[:, :1]], dim=1),
            x[:, :0],
            x[:, None, None, :0],
            x.sum(1),
            x.half(),
            x.to(torch.int64) if bool(torch.isfinite(x).all()) and bool((x.abs() < 1e18).all()) else x.bfloat16(),
        )


def extreme_number(number: float, dtype: torch.dtype) -> bool:
    """Whether the square of a number times 1e3 leaves the range of a dtype."""
    if number == 0:
        return False
    reach = 15.0 if dtype == torch.float32 else 140.0
    return abs(math.log10(number)) > reach


def check_message(error: Exception) -> None:
    said = str(error)
    assert re.match(r"^[A-Za-z][\w. ]*(:| stopped| must)|^\d+ of \d+ queries did not converge", said), repr(error)


def attempt(call: Callable[[], Any], *, bad: bool, failing: bool = False) -> Any:
    """The answer of one call, or None where it ended in a clear error that it had reason to give."""
    try:
        answer = call()
    except ConvergenceError as error:
        check_message(error)
        if not (bad or failing):
            raise
        OUTCOMES["convergence errors"] += 1
        return None
    except (ValueError, TypeError) as error:
        check_message(error)
        if not (bad or failing):
            raise
        OUTCOMES["argument errors"] += 1
        return None
    OUTCOMES["answers"] += 1
    return answer
