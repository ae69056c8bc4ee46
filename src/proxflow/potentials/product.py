"""Product laws: independent blocks of coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from proxflow.measures import is_normal
from proxflow.potentials.base import GeneralizedQuadratic, Potential
from proxflow.results import ProxResult, Status
from proxflow.storage import storable

__all__ = ["Product"]


@storable
class Product(Potential):
    """The product of laws on consecutive blocks of coordinates: psi(y) = sum_i psi_i(y_i).

    State: ``factors.0.*``, ``factors.1.*``, ...

    Raises:
        ValueError: no factor, or a factor whose source is not Gaussian.
    """

    def __init__(self, factors: Sequence[Potential]) -> None:
        if not factors:
            raise ValueError("Product: at least one potential is needed")
        for i, factor in enumerate(factors):
            if not is_normal(factor.source):
                raise ValueError(f"Product: factor {i} has the source {factor.source!r}; only Gaussian combine")
        super().__init__(sum(factor.dim for factor in factors))
        self.factors = nn.ModuleList(factors)

    @property
    def blocks(self) -> list[Potential]:
        """The factors, in order."""
        return [factor for factor in self.factors if isinstance(factor, Potential)]

    def constructor_arguments(self) -> dict[str, object]:
        """The factors."""
        return {"factors": self.blocks}

    @property
    def iterative(self) -> bool:
        """Whether any factor iterates."""
        return any(factor.iterative for factor in self.blocks)

    @property
    def query_dtype(self) -> torch.dtype | None:
        """As of the first factor that asks for one."""
        return next((factor.query_dtype for factor in self.blocks if factor.query_dtype is not None), None)

    def value(self, y: Tensor) -> Tensor:
        """Sum of the factors' values, (B,)."""
        return torch.stack([p.value(part) for p, part in self._split(y, "y")]).sum(0)

    def conjugate(self, u: Tensor) -> Tensor:
        """Sum of the factors' conjugates, (B,)."""
        return torch.stack([p.conjugate(part) for p, part in self._split(u, "u")]).sum(0)

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """The factors' pairs side by side; a row that fails in one factor fails."""
        pairs = [p.decompose(part, alpha, beta) for p, part in self._split(x, "x")]
        status = torch.stack([pair.status for pair in pairs]).amax(0)
        spoiled = (status == int(Status.non_finite))[:, None]
        return ProxResult(
            point=torch.where(spoiled, torch.nan, torch.cat([pair.point for pair in pairs], dim=1)),
            multiplier=torch.where(spoiled, torch.nan, torch.cat([pair.multiplier for pair in pairs], dim=1)),
            gap=torch.stack([pair.gap for pair in pairs]).sum(0),
            error_bound=torch.stack([pair.error_bound for pair in pairs]).square().sum(0).sqrt(),
            iterations=torch.stack([pair.iterations for pair in pairs]).amax(0),
            status=status,
        )

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """The factors' forms on the direct sum of their subspaces."""
        forms = [
            p.second_epi_derivative(part, other)
            for (p, part), (_, other) in zip(self._split(y, "y"), self._split(u, "u"), strict=True)
        ]
        return GeneralizedQuadratic(
            _block_diagonal([form.basis for form in forms]), _block_diagonal([form.hessian for form in forms])
        )

    def smooth_support(self, y: Tensor) -> Tensor:
        """The weakest of the factors' verdicts, (B,): the support is the product of theirs."""
        return torch.stack([p.smooth_support(part) for p, part in self._split(y, "y")]).amin(0)

    def sees_one_atom(self, y: Tensor, u: Tensor) -> Tensor:
        """Whether a factor does, (B,) bool: its coordinates then repeat those of its atom."""
        pieces = zip(self._split(y, "y"), self._split(u, "u"), strict=True)
        return torch.stack([p.sees_one_atom(part, other) for (p, part), (_, other) in pieces]).any(0)

    def log_density(self, y: Tensor) -> Tensor:
        """Sum of the factors' log-densities, (B,); -inf where a factor's is, whatever is known of the others.

        Raises:
            ValueError: a factor has no density.
        """
        parts = torch.stack([p.log_density(part) for p, part in self._split(y, "y")])
        off = torch.isneginf(parts).any(0) & ~torch.isnan(y).any(1)
        return torch.where(off, -torch.inf, parts.sum(0))

    def decompose_jacobian(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
        """Block-diagonal, (B, d, d)."""
        return _block_diagonal([p.decompose_jacobian(part, alpha, beta) for p, part in self._split(x, "x")])

    def _split(self, x: Tensor, name: str) -> list[tuple[Potential, Tensor]]:
        self.check(x, name)
        blocks = self.blocks
        return list(zip(blocks, x.split([p.dim for p in blocks], dim=1), strict=True))


def _block_diagonal(blocks: list[Tensor]) -> Tensor:
    rows, columns = sum(b.shape[1] for b in blocks), sum(b.shape[2] for b in blocks)
    out = blocks[0].new_zeros(len(blocks[0]), rows, columns)
    top = left = 0
    for block in blocks:
        out[:, top : top + block.shape[1], left : left + block.shape[2]] = block
        top, left = top + block.shape[1], left + block.shape[2]
    return out
