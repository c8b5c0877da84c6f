"""What the tests of several commands have in common."""

import flax.linen as nn
import pytest

from benchmarks.forgetting.tasks import digits


class Linear(nn.Module):
    """A model that compiles in no time."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(images)


@pytest.fixture
def linear_models(monkeypatch):
    """Untrained linear models in place of converged ones."""
    monkeypatch.setattr(digits, "Model", Linear)
    monkeypatch.setattr(digits, "_trained", lambda steps, key, data, train: Linear().init(key, data.upright[:1]))
    monkeypatch.setattr(digits, "CONVERGED", 0.0)
