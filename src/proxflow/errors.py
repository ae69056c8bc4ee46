"""Exceptions and warnings of the package."""

__all__ = ["ConvergenceError", "ConvergenceWarning", "MissingExtraError"]


class ConvergenceError(RuntimeError):
    """A query could not be solved to its tolerance; the message says how many rows, and what to try."""


class ConvergenceWarning(UserWarning):
    """A fit stopped before its tolerance; its result is valid for the weights that it reports."""


class MissingExtraError(ImportError):
    """An optional dependency is missing; the message names the extra that installs it."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f'this needs the package {module!r}: pip install "proxflow[{extra}]"', name=module)
