"""Laws of every coupling: pairs are rows of the data with noise of the source, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from proxflow.couplings import Pairs, Semidiscrete
from proxflow.couplings.stream import batch_of
from proxflow.semidiscrete import fit
from tests.couplings.cases import CASES, EVENT, LABEL_OF_THE_ROW, OF_GIVEN_ROWS, OPTIMAL, ROWS, WITHOUT_LABELS, data
from tests.couplings.normality import ALPHA, frequency_p_value, normal_p_value
from tests.marks import slow_beyond

EVERY = pytest.mark.parametrize("name", slow_beyond(len(CASES) - 1, CASES))


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    """Fitted once; tests that look at reproducibility build their own."""
    return {name: make(*data()) for name, make in CASES.items()}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a: Pairs, b: Pairs) -> bool:
    parts = [(a.source, b.source), (a.target, b.target), (a.index, b.index)]
    if a.label is not None and b.label is not None:
        parts.append((a.label, b.label))
    return (a.label is None) == (b.label is None) and all(torch.equal(x, y) for x, y in parts)


@EVERY
@pytest.mark.parametrize("n", [1, 40])
def test_pairs_have_the_shape_of_the_data_and_name_their_rows(
    built: dict[str, Any], name: str, n: int, generator: torch.Generator
) -> None:
    points, labels = data()
    pairs = built[name].sample(n, generator=generator)
    assert len(pairs) == n
    assert pairs.source.shape == pairs.target.shape == (n, *EVENT)
    assert pairs.index.shape == (n,)
    assert pairs.index.dtype == torch.int64
    assert torch.equal(pairs.target, points[pairs.index])
    assert pairs.label.shape == (n,)
    if name in LABEL_OF_THE_ROW:
        assert torch.equal(pairs.label, labels[pairs.index])


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_the_data_is_kept(name: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    pairs = CASES[name](*data(dtype)).sample(5, generator=generator)
    assert pairs.source.dtype == pairs.target.dtype == dtype
    assert pairs.label.dtype == (torch.int64 if name in LABEL_OF_THE_ROW else dtype)


@EVERY
def test_a_seed_gives_the_same_pairs_and_leaves_the_global_generator_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    points, labels = data()
    first, again = (CASES[name](points, labels).sample(40, generator=seeded(5)) for _ in range(2))
    other = CASES[name](points, labels).sample(40, generator=seeded(6))
    assert torch.equal(before, torch.random.get_rng_state())
    assert same(first, again)
    assert not torch.equal(first.source, other.source)


@EVERY
def test_without_a_generator_torch_s_own_is_used(name: str) -> None:
    draws = []
    for _ in range(2):
        coupling = CASES[name](*data())
        torch.manual_seed(11)
        draws.append(coupling.sample(6))
    assert same(*draws)


@EVERY
def test_both_marginals_are_exact(built: dict[str, Any], name: str, generator: torch.Generator) -> None:
    """What is drawn as often as in the data is the row, whatever the coupling."""
    parts = [built[name].sample(100, generator=generator) for _ in range(40)]  # 4,000 pairs in many calls
    noise = torch.cat([part.source for part in parts])
    index = torch.cat([part.index for part in parts])
    assert normal_p_value(noise) > ALPHA
    assert frequency_p_value(index, torch.ones(ROWS)) > ALPHA


@pytest.mark.parametrize("name", OPTIMAL)
def test_pairs_are_nearer_than_independent_ones(built: dict[str, Any], name: str, generator: torch.Generator) -> None:
    """The clusters lie 4 apart along an axis on which the noise has variance 1: choosing a side saves 6 of 7."""

    def cost(pairs: Pairs) -> Tensor:
        return (pairs.target - pairs.source).square().sum(-1).mean()

    paired = cost(built[name].sample(1000, generator=generator))
    apart = cost(built["independent"].sample(1000, generator=generator))
    # classes drawn first cannot choose the side, and save inside of it only
    assert paired < apart - (0.5 if "conditional" in name else 2.0)


@pytest.mark.parametrize("name", WITHOUT_LABELS)
def test_points_without_labels_give_pairs_without(name: str, generator: torch.Generator) -> None:
    assert CASES[name](data()[0], None).sample(3, generator=generator).label is None


@pytest.mark.parametrize("name", WITHOUT_LABELS)
def test_labels_of_several_numbers_travel_with_their_rows(name: str, generator: torch.Generator) -> None:
    points, _ = data()
    labels = torch.randn(ROWS, 3, generator=generator)
    pairs = CASES[name](points, labels).sample(30, generator=generator)
    assert torch.equal(pairs.label, labels[pairs.index])


@EVERY
def test_what_a_checkpoint_depends_on_changes_with_the_data(built: dict[str, Any], name: str) -> None:
    points, labels = data()
    tensors, moved = built[name].tensors, CASES[name](points + 1, labels).tensors
    assert all(tensor is None or isinstance(tensor, Tensor) for tensor in tensors)
    assert not all(torch.equal(a, b) for a, b in zip(tensors, moved, strict=True))


@EVERY
def test_pairs_carry_no_gradient_and_share_no_memory_with_the_data(
    built: dict[str, Any], name: str, generator: torch.Generator
) -> None:
    points, labels = data()
    kept = points.clone()
    pairs = CASES[name](points.requires_grad_(), labels).sample(8, generator=generator)
    assert not pairs.source.requires_grad
    assert not pairs.target.requires_grad
    pairs.target.add_(1)
    assert torch.equal(points, kept)


@EVERY
def test_inside_autocast_everything_is_the_same(name: str) -> None:
    """In a training step: the noise of a subspace was rounded to bfloat16, or refused."""
    points, labels = data(torch.float32)
    noise = torch.randn(ROWS, *EVENT, generator=seeded(1))

    def answers() -> list[Tensor]:
        coupling = CASES[name](points, labels)
        pairs = coupling.sample(40, generator=seeded())
        found = [pairs.source, pairs.target, pairs.index, batch_of(coupling, 3, 40, 0).source]
        if name in OF_GIVEN_ROWS:
            found += [
                coupling.noise_for(torch.arange(ROWS), generator=seeded()),
                coupling.rows_for(noise, generator=seeded()),
            ]
        return found

    outside = answers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = answers()
    for a, b in zip(outside, inside, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@EVERY
def test_what_waits_from_inference_mode_can_be_trained_on(name: str) -> None:
    """Draws left over from an evaluation were inference tensors, which nothing can be added to or differentiated."""
    points, labels = data()
    coupling, weight = CASES[name](points, labels), torch.ones(1, dtype=points.dtype, requires_grad=True)

    def noises() -> list[Tensor]:
        found = [coupling.sample(7, generator=seeded()).source, batch_of(coupling, 0, 7, 0).source]
        if name in OF_GIVEN_ROWS:
            found += [coupling.noise_for(torch.arange(ROWS), generator=seeded(seed)) for seed in range(50)]
        return found

    with torch.inference_mode():
        noises()
    for noise in noises():
        (weight * noise).sum().backward()


@EVERY
@pytest.mark.parametrize("generator", [5, "cpu"])
def test_what_is_no_generator_is_refused(built: dict[str, Any], name: str, generator: Any) -> None:
    with pytest.raises(ValueError, match=r"generator must be a torch\.Generator or None, got"):
        built[name].sample(100, generator=generator)


@EVERY
@pytest.mark.parametrize("number", [-1, 0.5])
def test_a_batch_of_no_whole_number_is_refused(built: dict[str, Any], name: str, number: Any) -> None:
    draws: list[Callable[[], object]] = [lambda: batch_of(built[name], number, 4, 0)]
    if hasattr(built[name], "batch"):
        draws.append(lambda: built[name].batch(number, 4, 0))
    for draw in draws:
        with pytest.raises(ValueError, match="batch: number must be an integer of at least 0"):
            draw()


@EVERY
@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_pair_is_refused(built: dict[str, Any], name: str, n: int) -> None:
    with pytest.raises(ValueError, match=f"n must be at least 1, got {n}"):
        built[name].sample(n)


BAD_DATA: dict[str, tuple[Callable[..., Any], str]] = {
    "nan": (lambda x, y: (torch.where(torch.arange(ROWS)[:, None, None] == 3, torch.nan, x), y), r"1 row .*\[3\]"),
    "inf": (lambda x, y: (x / 0, y), "24 rows"),
    "flat": (lambda x, y: (x[:, 0, 0], y), r"points must be a non-empty \(N, \*event\)"),
    "empty": (lambda x, y: (x[:0], y[:0]), r"points must be a non-empty \(N, \*event\)"),
    "no coordinate": (lambda x, y: (x[:, :, :0], y), r"points must be a non-empty \(N, \*event\)"),
    "integers": (lambda x, y: (x.long(), y), "points must be float32 or float64, got torch.int64"),
    "integers of two bytes": (
        lambda x, y: (x.short(), y),
        "points must be float32 or float64, got torch.int16; convert them to float32",
    ),
    "text": (lambda x, y: (x.numpy().astype(str), y), "points must be .* got an array of <U"),
    "few labels": (lambda x, y: (x, y[1:]), r"labels must be .* each of the 24 points, got \(23,\)"),
    "one label": (lambda x, y: (x, y[0]), r"labels must be .* each of the 24 points, got \(\)"),
    "names": (lambda x, y: (x, [f"class {k}" for k in y]), "labels must be .* numpy.unique"),
}


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.parametrize("name", ["independent", "minibatch", "conditional"])
def test_bad_data_are_refused_by_name(name: str, case: str) -> None:
    spoil, said = BAD_DATA[case]
    with pytest.raises(ValueError, match=rf"(?s){name.capitalize()}: .*{said}"):
        CASES[name](*spoil(*data()))


@pytest.mark.parametrize("case", BAD_DATA)
def test_a_semidiscrete_coupling_refuses_bad_data_too(case: str) -> None:
    spoil, said = BAD_DATA[case]
    points, labels = data()
    potential = fit(points).potential
    with pytest.raises(ValueError, match=rf"(?s)Semidiscrete: .*{said}"):
        Semidiscrete(potential, *spoil(points, labels))
