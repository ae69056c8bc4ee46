"""Generators of noise: from a seed and numbers, so that a draw can be made again; none is shared by a fork.

Data are often made by ``torch.manual_seed(0); torch.randn(...)``. A generator that started from the same state would
draw those very points as its noise, so no generator here starts from a seed as it stands: seeds are hashed.
"""

from __future__ import annotations

import os

import numpy as np
import torch

from proxflow.checks import whole_number

__all__ = ["check_generator", "derived_seed", "generator_of", "own_generator", "seeded_generator"]


def generator_of(seed: int, *numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for each seed and sequence of numbers.

    It is statistically independent of the others, and of ``torch.manual_seed(seed)`` and the like.
    """
    return torch.Generator(device).manual_seed(derived_seed(seed, *numbers))


def derived_seed(seed: int, *numbers: int) -> int:
    """A seed of its own for each seed and sequence of numbers, of 64 bits."""
    return int(np.random.SeedSequence(int(seed) % 2**64, spawn_key=numbers).generate_state(1, np.uint64)[0])


def seeded_generator(caller: str, seed: object, device: torch.device | str = "cpu") -> torch.Generator:
    """The first generator of a seed that a user gave.

    Raises:
        ValueError: the seed is no integer, or outside of what 64 bits hold.
    """
    number = whole_number(seed)
    if number is None or not -(2**63) <= number < 2**64:
        raise ValueError(f"{caller}: seed must be an integer of at most 64 bits, got {seed!r}")
    return generator_of(number, device=device)


def own_generator(generator: torch.Generator | None) -> torch.Generator | None:
    """The generator to draw with: the one given, else torch's own (None), unless a fork has left that a copy.

    After ``os.fork`` parent and children hold torch's default generator in one state, and would draw the same noise.
    In a child whose default generator has not been seeded since, a generator of the child's own stands in for it: it
    follows from the seed of the parent and the number of the fork, so that a seeded program can still be repeated.
    Workers of a DataLoader are seeded by PyTorch, spawned processes are not copies; both draw with torch's own.

    Raises:
        ValueError: it is no generator.
    """
    check_generator(generator)
    if generator is not None or _fork.inherited_seed != torch.initial_seed():
        return generator
    if _fork.generator is None:
        _fork.generator = generator_of(torch.initial_seed(), *_fork.path)
    return _fork.generator


def check_generator(generator: object) -> None:
    """Refuse what is neither a generator nor None.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(
            f"generator must be a torch.Generator or None, got {generator!r}; torch.Generator().manual_seed(0) is one"
        )


class _Fork:
    """Where this process comes from.

    Attributes:
        path: the numbers of the forks that lead to it, from the first process on.
        made: forks that it has made itself.
        inherited_seed: seed of torch's default generator when it was forked; None in the first process.
        generator: its own, once needed.
    """

    def __init__(self) -> None:
        self.path: tuple[int, ...] = ()
        self.made = 0
        self.inherited_seed: int | None = None
        self.generator: torch.Generator | None = None

    def before(self) -> None:
        """In the parent."""
        self.made += 1

    def in_child(self) -> None:
        """In the child, whose copy of the parent's record this is."""
        self.path, self.made = (*self.path, self.made), 0
        self.inherited_seed, self.generator = torch.initial_seed(), None


_fork = _Fork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_fork.before, after_in_child=_fork.in_child)
