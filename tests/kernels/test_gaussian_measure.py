import math

import numpy as np
import pytest
from scipy import integrate

from proxflow.kernels.gaussian_cells import tetrahedron_measure, triangle_measure

CASES = [(1.0, -0.5, 2.0), (0.01, -3.0, 0.2), (3.0, 1.0, 1.5), (1e-9, -1.0, 1.0), (0.5, -30.0, 30.0)]


@pytest.mark.parametrize(("height", "low", "high"), CASES)
def test_triangle_against_quadrature(height: float, low: float, high: float) -> None:
    def density(position: float) -> float:
        square = height**2 + position**2
        return -math.expm1(-0.5 * square) / square * height / (2 * math.pi)

    middle = [0.0] if low < 0 < high else None
    expected = integrate.quad(density, low, high, epsabs=1e-16, epsrel=1e-12, points=middle, limit=200)[0]
    got = triangle_measure(*(np.array([value]) for value in (height, low, high)))[0]
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("plane", [0.0, 1e-3, 0.7, 4.0])
@pytest.mark.parametrize(("offset", "low", "high"), CASES)
def test_tetrahedron_against_quadrature(plane: float, offset: float, low: float, high: float) -> None:
    """In spherical coordinates about the normal of the plane: the solid angle, weighed by the radial measure."""

    def radial(distance: float) -> float:
        tail = math.sqrt(2 / math.pi) * distance * math.exp(-0.5 * distance**2)
        return (math.erf(distance / math.sqrt(2)) - tail) / (4 * math.pi)

    def strip(angle: float) -> float:
        reach = offset / math.cos(angle)

        def ring(radius: float) -> float:
            distance = math.hypot(plane, radius)
            return radial(distance) * plane * radius / distance**3

        breaks = [value for value in (plane, 10 * plane, 1.0) if 0 < value < reach]
        return integrate.quad(ring, 0, reach, points=breaks or None, epsabs=1e-12, epsrel=1e-10, limit=200)[0]

    ends = math.atan2(low, offset), math.atan2(high, offset)
    middle = [0.0] if low < 0 < high else None
    expected = integrate.quad(strip, *ends, points=middle, epsabs=1e-11, epsrel=1e-8, limit=200)[0] if plane else 0.0
    got = tetrahedron_measure(*(np.array([value]) for value in (plane, offset, low, high)))[0]
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-10)


def test_tetrahedra_of_a_cube_add_up_to_a_product_of_intervals() -> None:
    """24 congruent halves of faces' quarters: the cube [-a, a]^3."""
    a = np.array([1.3])
    whole = 6 * 4 * tetrahedron_measure(a, a, -a, a)[0]
    assert whole == pytest.approx(math.erf(a[0] / math.sqrt(2)) ** 3, rel=1e-13)
