import sys

import pytest

import proxflow.semidiscrete


@pytest.fixture
def noise_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits that could be exact use noise as well: closed forms then judge the stochastic method."""
    assert proxflow.semidiscrete.fit is not None  # the module is imported; its name is that of the function
    monkeypatch.setattr(sys.modules["proxflow.semidiscrete.fit"], "exact_applies", lambda problem: False)
