"""PROFIT as one line of a chain: each gradient made orthogonal to the one before."""

import optax

from benchmarks.forgetting.methods import FEW_RATES, Main, Method, Setting
from benchmarks.forgetting.methods.profit import cosine, profit_name
from profit_optax import orthogonalize_to_previous


def one_line(warmup_steps: int = 0, main: Main = optax.adamw, dtype: str | None = None) -> Method:
    """`orthogonalize_to_previous` before `main`, with a moving average of the gradients where "decay" is above 0."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        line = orthogonalize_to_previous(setting["decay"], warmup_steps=warmup_steps, dtype=dtype)
        return optax.chain(line, main(setting["rate"]))

    name = profit_name("PROFIT one line", 1, warmup_steps) + ("" if dtype is None else f", memory in {dtype}")
    return Method(name, 1, optimizer, metrics=cosine, grid=(("rate", FEW_RATES), ("decay", (0.0, 0.5, 0.7))))
