"""The methods, each with a rate that falls along a cosine to 0 at the end of the run."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import lookahead as lookahead_method
from profit_optax import compare, orthogonalize_to_previous
from profit_optax import profit as profit_closure
from profit_optax.compare import Method, Setting
from profit_optax.compare.methods.head_first import in_head

# The part of a run that PROFIT and the one line begin with, in which the main optimizer is alone.
WARMUP = 0.1
MOMENTUM = 0.9
# SGD's rate over Adam's.
SGD_FACTOR = 30.0
# The rate of a new head alone over that of a whole network, whose weights are good already.
HEAD_FACTOR = 10.0
PULL = 0.1
HALFWAY = 0.5
# Of Lookahead: Optax's example has these.
SYNC_PERIOD, SLOW_STEP_SIZE = 5, 0.5
# Which leaves are trained, as a prefix of the parameters.
Part = Callable[[chex.ArrayTree], Any]


class Ablation(NamedTuple):
    """A method for which nothing is tuned.

    Attributes:
      method: it.
      of: the method whose rate it takes.
      share: of that rate.
    """

    method: Method
    of: Method
    share: float = 1.0


def adamw() -> Method:
    """AdamW, the baseline."""
    return Method("AdamW", lambda setting: optax.adamw(cosine(setting)))


def adamw_more(gradients: int) -> Method:
    """AdamW on the mean of as many gradients as a step of PROFIT takes."""
    return dataclasses.replace(adamw(), name=f"AdamW x{gradients}", gradients=gradients)


def adamw_slower(part: Part | None = None) -> Ablation:
    """AdamW at a third of its best rate: what is kept of the old task by learning less, and by nothing else."""
    baseline = on_part(adamw(), part)
    return Ablation(dataclasses.replace(baseline, name="AdamW, a third of the rate"), baseline, 1 / 3)


def changed_profit(ratio: float, n_refs: Sequence[int] = (), ratios: Sequence[float] = ()) -> list[Ablation]:
    """PROFIT at its rate with other n_ref, with other ratios, and without its warm-up."""
    ours = profit(1, ratio)
    changed = {f"n_ref {n_ref}": profit(n_ref, ratio) for n_ref in n_refs}
    changed |= {f"ratio {other:g}": profit(1, other) for other in ratios}
    changed["no warm-up"] = profit(1, ratio, warmup=0.0)
    return [Ablation(dataclasses.replace(method, name=f"PROFIT, {what}"), ours) for what, method in changed.items()]


def usual(fresh_head: bool, ratio: float, part: Part | None = None) -> list[Method]:
    """What a network is fine-tuned with, the baseline first.

    Args:
      fresh_head: whether there is a head to train alone, and to leave out of a pull to the start.
      ratio: the main rate over the reference rate.
      part: what is trained; None for everything.
    """
    ours = profit(1, ratio, part=part)
    baseline, more, line, descent = (
        on_part(method, part) for method in (adamw(), adamw_more(ours.gradients), one_line(), sgd())
    )
    methods = [baseline, more, ours, line, descent, lookahead(part), l2_sp(fresh_head, part), halfway()]
    return methods + [head_only(HEAD_FACTOR)] * fresh_head


def profit(n_ref: int, ratio: float, warmup: float = WARMUP, part: Part | None = None) -> Method:
    """PROFIT as the paper has it for tasks that are far: AdamW first, then PROFIT, both along one cosine.

    Args:
      n_ref: reference steps.
      ratio: the main rate over that of the SGD reference steps, all along.
      warmup: which part of the run AdamW is alone.
      part: what is trained; None for everything.
    """

    def optimizer(setting: Setting) -> Any:
        main, warmup_steps = cosine(setting), round(warmup * setting.steps)

        def reference(count: jax.Array) -> jax.Array:
            # Where nothing is displaced nothing is projected, and PROFIT is AdamW on the step's last batch. A branch,
            # which `warmup_steps` of `profit` is, makes gradients of convolutions many times slower on a CPU.
            step = count // n_ref
            return jnp.where(step < warmup_steps, 0.0, main(step) / ratio)

        return profit_closure(optax.adamw(main), optax.sgd(reference), n_ref, mask=part)

    return Method("PROFIT", optimizer, gradients=n_ref + 1, closure=True)


def one_line() -> Method:
    """`orthogonalize_to_previous` before AdamW, after the same warm-up: this project's own."""

    def optimizer(setting: Setting) -> Any:
        warmup_steps = round(WARMUP * setting.steps)
        return optax.chain(orthogonalize_to_previous(warmup_steps=warmup_steps), optax.adamw(cosine(setting)))

    return Method("one line", optimizer)


def sgd() -> Method:
    """SGD with momentum."""
    return Method("SGD", lambda setting: optax.sgd(cosine(setting), MOMENTUM), rate_factor=SGD_FACTOR)


def l2_sp(fresh_head: bool = False, part: Part | None = None) -> Method:
    """AdamW with a pull to the start, but for a head that is fresh: then it needs `Task.head`."""

    def optimizer(setting: Setting) -> Any:
        pull = compare.pull_to_start(PULL)
        if fresh_head:
            head = setting.task.head
            pull = optax.masked(pull, lambda params: jax.tree.map(lambda inside: not inside, in_head(head, params)))
        return optax.chain(pull, _of_part(optax.adamw(cosine(setting)), part))

    return Method(f"L2-SP {PULL:g}", optimizer, needs=("head",) if fresh_head else ())


def head_only(rate_factor: float = 1.0) -> Method:
    """AdamW on the last layer; nothing else moves. It needs `Task.head`."""

    def optimizer(setting: Setting) -> Any:
        return _of_part(adamw().optimizer(setting), lambda params: in_head(setting.task.head, params))

    return Method("head only", optimizer, needs=("head",), rate_factor=rate_factor)


def on_part(method: Method, part: Part | None) -> Method:
    """A method of gradients alone, which `profit` is not, on a part of the parameters; None for all of them."""
    return dataclasses.replace(method, optimizer=lambda setting: _of_part(method.optimizer(setting), part))


def lookahead(part: Part | None = None) -> Method:
    """Lookahead around AdamW."""

    def optimizer(setting: Setting) -> Any:
        fast = _of_part(optax.adamw(cosine(setting)), part)
        return lookahead_method.fast_and_slow(fast, SYNC_PERIOD, SLOW_STEP_SIZE)

    return Method("Lookahead", optimizer, eval_params=lookahead_method.slow)


def halfway() -> Method:
    """WiSE-FT: halfway from the start to where the baseline ended. It trains nothing."""
    return dataclasses.replace(compare.METHODS["wise_ft"](alphas=(HALFWAY,)), name=f"WiSE-FT {HALFWAY:g} of AdamW")


def cosine(setting: Setting) -> optax.Schedule:
    """From the rate to 0 over the run."""
    return optax.cosine_decay_schedule(setting.rate, setting.steps)


def _of_part(tx: optax.GradientTransformation, part: Part | None) -> optax.GradientTransformation:
    if part is None:
        return tx

    def labels(params: chex.ArrayTree) -> Any:
        return jax.tree.map(lambda inside: "trained" if inside else "kept", part(params))

    return optax.partition({"trained": tx, "kept": optax.set_to_zero()}, labels)
