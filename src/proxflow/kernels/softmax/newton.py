"""Batched, globalised Newton method for the prox of a softmax (entropic) potential.

Each row solves  x = tau v + beta m(v),  m(v) the mean of the softmax law p_j ~ exp(<v, a_j> + b_j): v minimises the
strongly convex  tau |v|^2 / 2 + beta log sum_j exp(<v, a_j> + b_j) - <x, v>.

Plain Newton diverges when the law is sharp. Here every step is searched along its line, where a trial costs N
exponentials and no matrix product, so the method converges from anywhere; ``prox`` of this folder starts it well.

A row ends when the full Newton step certifies itself. Let q = p(v + dv) and p1 = p (1 + <dv, a - m>), a law whose mean
is the Newton point y. The Fenchel-Young gap of (y, v + dv) is KL(p1 | q) <= chi^2(p1 | q), which falls with the fourth
power of the step: the last step is taken only once it is known to be good.

Invariant: the objective falls in every row at every step. A row ends when that bound is below its tolerance, at the
rounding of its objective, or at the cap on steps, where it is reported as not converged; no row waits for another's
arithmetic. Cost of a step: two products with the N atoms, a d x d system from the covariance of the atoms whose
probability can be felt, and N exponentials a trial of the search.

Everything is in float64, with atoms normalised by the caller to |a_j| <= 1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from proxflow.kernels.softmax.law import covariance, solve_shifted
from proxflow.results import Status

__all__ = ["BOUND_ACCEPTED", "GAP_TARGET", "ROUNDING", "Problem", "Solution", "descend"]

ROUNDING = torch.finfo(torch.float64).eps
GAP_TARGET = 1e-26  # chi^2 of the last step: an error of 1e-13 of the atoms' radius
_GAP_NEAR = 1e-10  # a small gap, which rounding may keep from becoming smaller
BOUND_ACCEPTED = 1e-9  # of the atoms' radius: converged where the bound is no larger, up to rounding
_PATIENCE = 10  # steps without a better gap, at a residual of rounding
_PATIENCE_NEAR = 3  # the same, at a small gap: steps that only move atoms of tiny mass gain a factor of 3 or so
_BOUND_REFUSED = 1e-3  # where rounding itself moves the point by more, no row is called converged
_ROUNDINGS = 64.0  # of scores, added to the bound that a step must keep to
_SEARCH_TRIALS = 100  # halvings of a step; after them a row has failed
_SLOPE_LEFT = 0.3  # share of the slope that a line search may leave


@dataclass
class Solution:
    """Per row: v (B, d), point y (B, d), gap as chi^2 (B,), bound on y (B,), iterations (B,), status (B,)."""

    multiplier: Tensor
    point: Tensor
    gap: Tensor
    bound: Tensor
    iterations: Tensor
    status: Tensor

    @classmethod
    def unsolved(cls, x: Tensor) -> Solution:
        """NaN rows with status ``max_iterations``."""
        nan = torch.full_like(x[:, 0], torch.nan)
        count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        status = torch.full_like(count, int(Status.max_iterations))
        return cls(torch.full_like(x, torch.nan), torch.full_like(x, torch.nan), nan, nan.clone(), count, status)

    def put(self, rows: Tensor, other: Solution) -> None:
        """Overwrite ``rows`` by the rows of another solution."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)

    def rows(self, index: Tensor) -> Solution:
        """Some of the rows."""
        return Solution(*(tensor[index] for tensor in self.tensors()))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The fields in order."""
        return self.multiplier, self.point, self.gap, self.bound, self.iterations, self.status


@dataclass(frozen=True)
class Problem:
    """Rows x = tau v + beta m(v) over shared atoms (N, d) with log-weights ``bias`` (N,)."""

    x: Tensor
    tau: Tensor
    beta: Tensor
    atoms: Tensor
    bias: Tensor
    max_memory: int

    def rows(self, index: Tensor) -> Problem:
        """The same problem for some of its rows."""
        return Problem(self.x[index], self.tau[index], self.beta[index], self.atoms, self.bias, self.max_memory)

    def proximal(self, tau: Tensor, centre: Tensor) -> Problem:
        """The rows whose multiplier is pulled towards ``centre`` (B, d) with strength tau (B,)."""
        target = self.x + tau[:, None] * centre
        return Problem(target, tau, self.beta, self.atoms, self.bias, self.max_memory)

    def softened(self, flatness: float) -> Problem:
        """The same source points and atoms at a temperature ``flatness`` times higher."""
        return Problem(self.x, self.tau * flatness, self.beta, self.atoms, self.bias / flatness, self.max_memory)

    def objective(self, v: Tensor) -> Tensor:
        """tau |v|^2 / 2 + beta logsumexp(v) - <x, v>, (B,)."""
        quadratic = 0.5 * self.tau * v.square().sum(1) - (self.x * v).sum(1)
        return quadratic + self.beta * self.log_sum(v)

    def log_sum(self, v: Tensor) -> Tensor:
        """log sum_j exp(<v, a_j> + b_j), (B,)."""
        return torch.logsumexp(v @ self.atoms.mT + self.bias, dim=1)


@dataclass(frozen=True)
class _Step:
    """A Newton step at v, with what its certificate needs."""

    v: Tensor
    log_law: Tensor  # (B, N)
    law: Tensor
    centre: Tensor
    residual: Tensor
    change: Tensor
    scores: Tensor  # change of every atom's score over the full step, (B, N)

    @classmethod
    def at(cls, problem: Problem, v: Tensor) -> _Step:
        log_law = torch.log_softmax(v @ problem.atoms.mT + problem.bias, dim=1)
        law = log_law.exp()
        centre = law @ problem.atoms
        residual = problem.x - problem.tau[:, None] * v - problem.beta[:, None] * centre
        spread = covariance(law, centre, problem.atoms, problem.max_memory)
        change = solve_shifted(spread, problem.tau, problem.beta, residual[:, :, None])[:, :, 0]
        return cls(v, log_law, law, centre, residual, change, change @ problem.atoms.mT)

    def searched(self, problem: Problem) -> Tensor:
        """v after a step along the line, to where no more than a fraction of the slope is left."""
        at_start = -(self.change * self.residual).sum(1)
        linear = at_start - problem.beta * (self.law * self.scores).sum(1)
        quadratic = problem.tau * self.change.square().sum(1)
        low, high, t = torch.zeros_like(linear), torch.ones_like(linear), torch.ones_like(linear)
        for trial in range(_SEARCH_TRIALS):
            law = torch.softmax(self.log_law + t[:, None] * self.scores, dim=1)
            rate = (law * self.scores).sum(1)
            slope = linear + t * quadratic + problem.beta * rate
            enough = (slope.abs() <= _SLOPE_LEFT * at_start.abs()) | ((t == 1) & (slope <= 0))
            if bool(enough.all()):
                break
            low, high = torch.where(slope < 0, t, low), torch.where(slope < 0, high, t)
            curvature = quadratic + problem.beta * (law * (self.scores - rate[:, None]).square()).sum(1)
            newton = t - slope / curvature
            inside = (
                (newton > low) & (newton < high) & (trial % 2 == 0)
            )  # every other trial may bisect: that bounds them
            t = torch.where(enough, t, torch.where(inside, newton, 0.5 * (low + high)))
        t = torch.where(enough | (low == 0), t, low)  # where trials ran out, the end known to go down
        return self.v + t[:, None] * self.change

    def completed(self, problem: Problem) -> Solution:
        """The full step with its certificate; gap and bound are large where the step is not good."""
        drift = (self.law * self.scores).sum(1, keepdim=True)
        relative = (self.scores - drift).clamp(min=-1.0)
        tilted = torch.exp(self.log_law + relative)
        excess = torch.where(
            relative < 1, self.law * (torch.expm1(relative) - relative), tilted - self.law * (1 + relative)
        )
        size = excess.sum(1, keepdim=True)
        log_ratio = torch.log1p(relative) - relative + torch.log1p(size)  # of p1 to q
        gap = (tilted / (1 + size) * torch.expm1(log_ratio).square()).sum(1)
        stepped = self.law * (1 + relative)
        hull_point = stepped @ problem.atoms
        v = self.v + self.change
        # x = tau v + beta y gives y with fewer roundings than the mean, where it can be divided by beta
        exact = (problem.tau <= problem.beta)[:, None]
        reach = problem.x - problem.tau[:, None] * v
        point = torch.where(exact, reach / torch.where(exact, problem.beta[:, None], 1.0), hull_point)
        # zero but for rounding, and for atoms of no mass whose weights were kept from turning negative
        mismatch = torch.linalg.vector_norm(point - hull_point, dim=1) + (stepped.sum(1) - 1).abs()
        return self._record(problem, v, point, gap, gap.sqrt() * _bound_factor(problem) + 2 * mismatch)

    def abandoned(self, problem: Problem) -> Solution:
        """The mean at v as the point and what it leaves of x as the multiplier: a valid bound whatever v is."""
        change = self.residual / problem.tau[:, None]
        scores = change @ problem.atoms.mT
        drift = (self.law * scores).sum(1, keepdim=True)
        gap = torch.logsumexp(self.log_law + scores - drift, dim=1).clamp(min=0)
        bound = torch.linalg.vector_norm(self.residual, dim=1) / (problem.beta + problem.tau)
        return self._record(problem, self.v + change, self.centre, gap, bound.clamp(max=2.0))

    def outcome(self, problem: Problem, full: Solution, ended: Tensor, target: float) -> Solution:
        """The better of the two ways to end here, with its status."""
        rough = self.abandoned(problem)
        better = (full.gap <= max(target, _GAP_NEAR)) | (full.bound <= rough.bound)
        kept = Solution(
            torch.where(better[:, None], full.multiplier, rough.multiplier),
            torch.where(better[:, None], full.point, rough.point),
            torch.where(better, full.gap, rough.gap),
            torch.where(better, full.bound, rough.bound),
            full.iterations,
            full.status,
        )
        good = kept.bound <= (BOUND_ACCEPTED + _ROUNDINGS * self._rounding(problem)).clamp(max=_BOUND_REFUSED)
        failure = torch.where(ended, int(Status.stalled), int(Status.max_iterations))
        kept.status = torch.where(good, int(Status.converged), failure)
        return kept

    def at_rounding(self, problem: Problem) -> Tensor:
        """Rows whose residual is no more than rounding, (B,)."""
        of_scores = problem.beta * self._score_size(problem)
        reach = self._reach(problem)
        size: Tensor = torch.linalg.vector_norm(self.residual, dim=1)
        return size <= 2 * ROUNDING * (of_scores + reach)

    def _record(self, problem: Problem, v: Tensor, point: Tensor, gap: Tensor, bound: Tensor) -> Solution:
        count = torch.zeros(len(v), dtype=torch.int64, device=v.device)
        return Solution(v, point, gap, bound + self._rounding(problem), count, count.clone())

    def _score_size(self, problem: Problem) -> Tensor:
        size: Tensor = 1 + torch.linalg.vector_norm(self.v, dim=1) + self.law @ problem.bias.abs()
        return size

    def _reach(self, problem: Problem) -> Tensor:
        size = torch.linalg.vector_norm(problem.x, dim=1)
        reach: Tensor = size + problem.tau * torch.linalg.vector_norm(self.v, dim=1)
        return reach

    def _rounding(self, problem: Problem) -> Tensor:
        """What the rounding of scores and of the query can move the point by, (B,)."""
        of_query = (self._reach(problem) + problem.beta) / (problem.beta + problem.tau)
        return 4 * ROUNDING * (self._score_size(problem) * _bound_factor(problem) + of_query)


def _bound_factor(problem: Problem) -> Tensor:
    """Error of the point per square root of the gap: sqrt(tau / beta), and never more than the atoms' spread allows."""
    beta = problem.beta.clamp(min=torch.finfo(problem.beta.dtype).tiny)
    return (problem.tau / beta).sqrt().clamp(max=2.0)


def descend(problem: Problem, start: Tensor, max_iterations: int, target: float = GAP_TARGET) -> Solution:
    """Newton's method from ``start`` (B, d), in at most ``max_iterations`` >= 1 steps per row, until the gap is small.

    Args:
        problem: rows with tau > 0 and beta > 0.
        start: (B, d).
        max_iterations: cap on steps.
        target: gap at which to end; a row also ends where rounding leaves no more to gain.
    """
    out = Solution.unsolved(problem.x)
    rows = torch.arange(len(start), device=start.device)
    v, best, idle = start, torch.full_like(problem.tau, torch.inf), torch.zeros_like(rows)
    for iteration in range(1, max_iterations + 1):
        if len(rows) == 0:
            break
        step = _Step.at(problem, v)
        full = step.completed(problem)
        idle = torch.where(full.gap < 0.7 * best, 0, idle + 1)
        ended = (full.gap <= target) | ((full.gap <= _GAP_NEAR) & (idle >= _PATIENCE_NEAR))
        ended |= step.at_rounding(problem) & (idle >= _PATIENCE)
        done = ended if iteration < max_iterations else torch.ones_like(ended)
        v, best = step.searched(problem), torch.fmin(best, full.gap)
        if bool(done.any()):
            full.iterations.fill_(iteration)
            out.put(rows[done], step.outcome(problem, full, ended, target).rows(done))
            rows, problem = rows[~done], problem.rows(~done)
            v, best, idle = v[~done], best[~done], idle[~done]
    return out
