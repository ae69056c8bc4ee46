import math

import pytest
import torch

from proxflow.measures import Gaussian
from proxflow.semidiscrete.certificate import mass_error, mass_error_of_batches, noise_cost
from proxflow.semidiscrete.judgement import Moments
from proxflow.semidiscrete.prepare import gather_atoms
from proxflow.semidiscrete.problem import Tally, inner
from proxflow.semidiscrete.returned import Returned

DRAWS, REPEATS = 2000, 4000


def estimates(mass: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    atoms = torch.multinomial(mass.expand(REPEATS, -1), DRAWS, replacement=True, generator=generator)
    counts = torch.zeros(REPEATS, len(mass), dtype=torch.float64)
    counts.scatter_add_(1, atoms, torch.ones((), dtype=torch.float64).expand(atoms.shape))
    results = [mass_error(Tally(row, row, DRAWS), weights) for row in counts]
    return torch.tensor([r.chi2 for r in results]), torch.tensor([r.stderr for r in results])


@pytest.mark.parametrize("tilt", [0.0, 0.1, 1.0])
def test_chi2_is_unbiased_and_its_standard_error_is_its_spread(tilt: float) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(40, generator=generator, dtype=torch.float64) + 0.2
    weights /= weights.sum()
    mass = weights * torch.exp(tilt * torch.randn(40, generator=generator, dtype=torch.float64))
    mass /= mass.sum()
    truth = float(((mass - weights) ** 2 / weights).sum())
    chi2, stderr = estimates(mass, weights)
    spread = float(chi2.std())
    assert float(chi2.mean()) == pytest.approx(truth, abs=4 * spread / math.sqrt(REPEATS))
    assert float(stderr.square().mean().sqrt()) == pytest.approx(spread, rel=0.08)


@pytest.mark.parametrize(("tilt", "atoms"), [(0.0, 40), (0.1, 40), (0.5, 40), (0.5, 4000)])
def test_chi2_of_batches_is_unbiased_and_its_standard_error_is_its_spread(tilt: float, atoms: int) -> None:
    repeats, batches, draws = 600, 16, 128
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(atoms, generator=generator, dtype=torch.float64) + 0.2
    weights /= weights.sum()
    mass = weights * torch.exp(tilt * torch.randn(atoms, generator=generator, dtype=torch.float64))
    mass /= mass.sum()
    truth = float(((mass - weights) ** 2 / weights).sum())
    found = []
    for _ in range(repeats):
        drawn = torch.multinomial(mass.expand(batches, -1), draws, replacement=True, generator=generator)
        masses = (torch.bincount(some, minlength=atoms).double() / draws for some in drawn)
        found.append(mass_error_of_batches(masses, draws, 1.0, weights))
    chi2 = torch.tensor([each.chi2 for each in found])
    spread = float(chi2.std())
    assert float(chi2.mean()) == pytest.approx(truth, abs=4 * spread / math.sqrt(repeats))
    stderr = torch.tensor([each.stderr for each in found])
    assert float(stderr.square().mean().sqrt()) == pytest.approx(spread, rel=0.12)


@pytest.mark.parametrize(("atoms", "draws", "chi2"), [(20_000, 2000, 0.1), (3000, 3000, 0.0), (3000, 3000, 0.5)])
def test_the_standard_error_is_right_where_few_atoms_are_drawn_twice(atoms: int, draws: int, chi2: float) -> None:
    """It had been 4.6 times too large for ten times as many atoms as draws, which kept fits from their tolerance."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.full((atoms,), 1 / atoms, dtype=torch.float64)
    mass = weights * (1 + math.sqrt(chi2) * (2 * torch.randint(0, 2, (atoms,), generator=generator) - 1))
    mass /= mass.sum()
    found = []
    for _ in range(300):
        counts = torch.bincount(torch.multinomial(mass, draws, replacement=True, generator=generator), minlength=atoms)
        found.append(mass_error(Tally(counts.double(), counts.double(), draws), weights))
    spread = float(torch.tensor([error.chi2 for error in found]).std())
    errors = torch.tensor([error.stderr for error in found])
    assert float(errors.square().mean().sqrt()) == pytest.approx(spread, rel=4 / math.sqrt(2 * 300))
    assert float(errors.min()) > 0.6 * spread


def test_draws_without_a_coincidence_do_not_look_certain() -> None:
    weights = torch.full((10_000,), 1e-4, dtype=torch.float64)
    counts = torch.zeros(10_000, dtype=torch.float64)
    counts[:50] = 1
    error = mass_error(Tally(counts, counts, 50), weights)
    assert error.chi2 == pytest.approx(-1)
    assert error.stderr == pytest.approx(math.sqrt(2 * 10_000 / (50 * 49)), rel=0.3)


def test_at_the_optimum_the_spread_is_the_one_of_the_theory() -> None:
    weights = torch.full((50,), 0.02, dtype=torch.float64)
    chi2, _ = estimates(weights, weights)
    assert float(chi2.std()) == pytest.approx(math.sqrt(2 * 49 / (DRAWS * (DRAWS - 1))), rel=0.06)
    assert float(chi2.min()) < 0  # an unbiased estimate of zero takes both signs


def test_one_cell_that_gets_everything_has_a_known_error() -> None:
    counts = torch.tensor([1000.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    error = mass_error(Tally(counts, counts, 1000), torch.full((4,), 0.25, dtype=torch.float64))
    assert error.chi2 == pytest.approx(3.0)


def test_soft_assignments_are_judged_without_bias_and_with_a_safe_standard_error() -> None:
    generator = torch.Generator().manual_seed(2)
    weights = torch.full((6,), 1 / 6, dtype=torch.float64)
    scores = torch.randn(REPEATS, 200, 6, generator=generator, dtype=torch.float64)
    tilted = torch.tensor([0.5, 0, 0, 0, 0, 0], dtype=torch.float64)
    laws = torch.softmax(scores + tilted, dim=2)
    mass = laws.mean((0, 1))
    truth = float(((mass - weights) ** 2 / weights).sum())
    results = [mass_error(Tally(law.sum(0), law.square().sum(0), 200), weights) for law in laws]
    chi2 = torch.tensor([result.chi2 for result in results])
    spread = float(chi2.std())
    assert float(chi2.mean()) == pytest.approx(truth, abs=5 * spread / math.sqrt(REPEATS))
    assert float(torch.tensor([result.stderr for result in results]).mean()) > spread


def placed(numbers: torch.Tensor, offset: int) -> torch.Tensor:
    """The same numbers elsewhere: what is read from a file need not lie where a new tensor would."""
    room = torch.empty(len(numbers) + 8, dtype=numbers.dtype)
    return room[offset : offset + len(numbers)].copy_(numbers)


def test_where_numbers_lie_does_not_change_a_bit_of_a_sum() -> None:
    """With BLAS's product a fit that went on from its checkpoint had an interval that differed in its last bit."""
    generator = torch.Generator().manual_seed(0)
    for atoms in range(80, 130):
        a, b = torch.rand(2, atoms, generator=generator, dtype=torch.float64)
        assert len({float(inner(placed(a, i), placed(b, j))) for i in range(8) for j in range(8)}) == 1
        assert float(inner(a, b)) == pytest.approx(float(a @ b), rel=1e-14)


@pytest.mark.parametrize("centre", [0.0, 0.7])
def test_the_error_of_the_transport_cost_is_its_spread_where_draws_are_few(centre: float) -> None:
    """Half as many coordinates as draws; of two atoms centre +- a, E phi(X) = |a| E|Z| with Z normal on the line."""
    dim, draws = 300, 600
    half = torch.full((1, dim), 0.1)
    points = torch.cat([half, -half]) + centre
    returned = Returned(gather_atoms(points, None), Gaussian(dim), 0.0, 256)
    potential = returned.potential(torch.zeros(2), double=True)
    semi_dual = float(half.double().norm()) * math.sqrt(2 / math.pi)
    truth = dim + float(points.double().square().sum(1).mean()) - 2 * semi_dual
    generator = torch.Generator().manual_seed(11)
    scores = []
    for _ in range(200):
        value, stderr = noise_cost(returned.judge(potential, draws, generator), Gaussian(dim))
        scores.append((value + float(returned.atom_costs(potential).mean()) - truth) / stderr)
    standard = torch.tensor(scores)
    assert abs(float(standard.mean())) < 4 / math.sqrt(200)
    assert float(standard.square().mean()) == pytest.approx(1, abs=0.4)


def test_moments_add_up_where_means_are_large() -> None:
    rows = torch.randn(1000, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64) + 1e7
    parts = [Moments.of(part) for part in rows.split([1, 299, 700])]
    whole = parts[0] + parts[1] + parts[2]
    assert whole.count == 1000
    assert torch.allclose(whole.mean, rows.mean(0), rtol=1e-15, atol=0)
    assert torch.allclose(whole.products / 999, torch.cov(rows.mT), rtol=1e-6)
