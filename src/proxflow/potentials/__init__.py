"""Extended Brenier potentials: what a flow is made of."""

from proxflow.potentials.atoms import AtomicPotential
from proxflow.potentials.base import GeneralizedQuadratic, Potential, Rotated, Scaled
from proxflow.potentials.convex_body import Ball, Ellipsoid
from proxflow.potentials.discrete import Discrete
from proxflow.potentials.entropic import Entropic
from proxflow.potentials.product import Product
from proxflow.potentials.quadratic import Quadratic
from proxflow.potentials.quantile.line import Quantile
from proxflow.potentials.quantile.radial import Radial
from proxflow.potentials.shortlisted import Shortlisted
from proxflow.potentials.symmetric import SymmetricDiscrete

__all__ = [
    "AtomicPotential",
    "Ball",
    "Discrete",
    "Ellipsoid",
    "Entropic",
    "GeneralizedQuadratic",
    "Potential",
    "Product",
    "Quadratic",
    "Quantile",
    "Radial",
    "Rotated",
    "Scaled",
    "Shortlisted",
    "SymmetricDiscrete",
]
