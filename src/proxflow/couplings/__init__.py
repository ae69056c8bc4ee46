"""Couplings: which point of the noise is paired with which point of the data."""

from proxflow.couplings.conditional import Conditional
from proxflow.couplings.directions import DirectionChoice, choose_directions, principal_directions
from proxflow.couplings.independent import Independent
from proxflow.couplings.joint_conditional import JointConditional
from proxflow.couplings.minibatch import Minibatch
from proxflow.couplings.noise_pool import NoiseLaw
from proxflow.couplings.pair_file import PairFile, PairFileRecord
from proxflow.couplings.pair_sampler import PairSampler
from proxflow.couplings.pairing import pair
from proxflow.couplings.pairs import Pairs
from proxflow.couplings.semidiscrete_coupling import Semidiscrete
from proxflow.couplings.stream import Coupling, PairStream
from proxflow.couplings.subspace import Subspace

__all__ = [
    "Conditional",
    "Coupling",
    "DirectionChoice",
    "Independent",
    "JointConditional",
    "Minibatch",
    "NoiseLaw",
    "PairFile",
    "PairFileRecord",
    "PairSampler",
    "PairStream",
    "Pairs",
    "Semidiscrete",
    "Subspace",
    "choose_directions",
    "pair",
    "principal_directions",
]
