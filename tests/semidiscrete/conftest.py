import pytest

from proxflow.semidiscrete import fitting


@pytest.fixture
def noise_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits that could be exact use noise as well: closed forms then judge the stochastic method."""
    monkeypatch.setattr(fitting, "exact_applies", lambda problem: False)
