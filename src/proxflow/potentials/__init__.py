"""Extended Brenier potentials: what a flow is made of."""

from proxflow.potentials.base import GeneralizedQuadratic, Potential
from proxflow.potentials.calculus import Rotated, Scaled
from proxflow.potentials.convex_body import Ball, Ellipsoid
from proxflow.potentials.discrete import Discrete
from proxflow.potentials.product import Product
from proxflow.potentials.quadratic import Quadratic

__all__ = [
    "Ball",
    "Discrete",
    "Ellipsoid",
    "GeneralizedQuadratic",
    "Potential",
    "Product",
    "Quadratic",
    "Rotated",
    "Scaled",
]
