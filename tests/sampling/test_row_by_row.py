"""Networks in training mode, whose velocities depend on chance or on the rows beside, are refused where that counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxflow.adapters import TrainingAudit
from proxflow.analysis import (
    audit,
    local_dimension,
    lyapunov_exponents,
    perturb,
    scale_spectrum,
    tangent_splitting,
    terminal_spectrum,
    terminal_study,
)
from proxflow.metrics import few_steps
from proxflow.sampling import bits_per_dimension, encode, log_likelihood
from proxflow.sampling.row_by_row import check_row_by_row
from tests.marks import slow_beyond

X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
ON_LEVELS = (X * 255).round() / 255
TANGENT = torch.eye(2)[:, :1].expand(40, 2, 1)
CALLS: dict[str, Callable[[Any], object]] = {
    "audit": lambda field: audit(field, X, count=64, steps=8),
    "TrainingAudit": lambda field: TrainingAudit(X, count=32)(field),
    "log_likelihood": lambda field: log_likelihood(field, X),
    "log_likelihood in bits": lambda field: bits_per_dimension(field, ON_LEVELS),
    "encode": lambda field: encode(field, X),
    "few_steps": lambda field: few_steps(field, X, X),
    "local_dimension": lambda field: local_dimension(field, X, 0.9),
    "lyapunov_exponents": lambda field: lyapunov_exponents(field, X, 0.9),
    "perturb": lambda field: perturb(field, X, 0.5),
    "scale_spectrum": lambda field: scale_spectrum(field, X, (0.5, 0.9)),
    "terminal_spectrum": lambda field: terminal_spectrum(field, X, 0.9),
    "tangent_splitting": lambda field: tangent_splitting(field, X, 0.9, TANGENT),
    "terminal_study": lambda field: terminal_study(field, X, scale=1.0),
}


class Network(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 32), layer, nn.Tanh(), nn.Linear(32, 2))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        found: Tensor = self.layers(torch.cat([x, t.expand(len(x), 1)], dim=1))
        return found


@pytest.fixture(params=[nn.Dropout(0.1), nn.BatchNorm1d(32)], ids=["dropout", "batch normalisation"])
def network(request: pytest.FixtureRequest) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network(request.param)


@pytest.mark.parametrize("name", list(CALLS))
@pytest.mark.parametrize("wrapped", slow_beyond(1, [True, False]))
def test_a_network_in_training_mode_is_refused(name: str, wrapped: bool, network: Network) -> None:
    network.train()
    with pytest.raises(ValueError, match=rf"^{name.split()[0]}: .* network in training mode, .* eval\(\)"):
        CALLS[name]((lambda t, x: network(t, x)) if wrapped else network)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_network_in_evaluation_mode_is_taken(count: int, network: Network) -> None:
    check_row_by_row("caller", network.eval(), torch.tensor(0.5), torch.randn(count, 2))


def test_fields_of_labelled_rows_reduced_precision_and_no_velocity_are_taken(network: Network) -> None:
    network.eval()
    labels = torch.arange(7)[:, None]
    check_row_by_row("caller", lambda t, x: network(t, x) * labels, torch.tensor(0.5), torch.randn(7, 2))
    check_row_by_row("caller", lambda t, x: torch.zeros_like(x), torch.tensor(0.5), torch.randn(7, 2))
    with torch.autocast("cpu", torch.bfloat16):
        check_row_by_row("caller", network, torch.tensor(0.5), torch.randn(7, 2))


def test_one_row_tells_chance() -> None:
    field = Network(nn.Dropout(0.1)).train()
    with pytest.raises(ValueError, match="eval"):
        check_row_by_row("caller", field, torch.tensor(0.5), torch.randn(1, 2))
