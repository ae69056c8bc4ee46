"""What the theory promises, measured: minibatch excess, terminal spectra, local dimension, second epi-derivatives."""

from proxflow.analysis.auditing.audit_record import Audit, Figure
from proxflow.analysis.auditing.model_audit import audit
from proxflow.analysis.convergence.rate import Rate, WantedSize
from proxflow.analysis.convergence.record import FieldError, MinibatchConvergence, VelocityError
from proxflow.analysis.convergence.study import minibatch_convergence
from proxflow.analysis.epiderivative import (
    EpiCheck,
    EpiQuotients,
    check_second_epi_derivative,
    directional_prox,
    second_epi_quotients,
)
from proxflow.analysis.hypotheses import TerminalHypotheses, Verdict, check_terminal_hypotheses
from proxflow.analysis.intrinsic_dimension.estimate import DataDimension, data_dimension
from proxflow.analysis.terminal.local_dimension import LocalDimension, local_dimension
from proxflow.analysis.terminal.lyapunov import LyapunovExponents, lyapunov_exponents
from proxflow.analysis.terminal.perturbation import Perturbation, perturb
from proxflow.analysis.terminal.scale_law import ScaleSpectrum, local_scale, scale_law, scale_spectrum
from proxflow.analysis.terminal.terminal_spectrum import (
    TangentSplitting,
    TerminalSpectrum,
    tangent_splitting,
    terminal_spectrum,
)
from proxflow.analysis.terminal.terminal_study import TerminalStudy, terminal_study

__all__ = [
    "Audit",
    "DataDimension",
    "EpiCheck",
    "EpiQuotients",
    "FieldError",
    "Figure",
    "LocalDimension",
    "LyapunovExponents",
    "MinibatchConvergence",
    "Perturbation",
    "Rate",
    "ScaleSpectrum",
    "TangentSplitting",
    "TerminalHypotheses",
    "TerminalSpectrum",
    "TerminalStudy",
    "VelocityError",
    "Verdict",
    "WantedSize",
    "audit",
    "check_second_epi_derivative",
    "check_terminal_hypotheses",
    "data_dimension",
    "directional_prox",
    "local_dimension",
    "local_scale",
    "lyapunov_exponents",
    "minibatch_convergence",
    "perturb",
    "scale_law",
    "scale_spectrum",
    "second_epi_quotients",
    "tangent_splitting",
    "terminal_spectrum",
    "terminal_study",
]
