"""Schedule-free AdamW, which is evaluated at an average of its iterates."""

from optax.contrib import schedule_free_adamw, schedule_free_eval_params

from benchmarks.forgetting.methods import Method


def schedule_free() -> Method:
    """Optax's schedule-free AdamW (Defazio et al., 2024)."""
    return Method(
        name="schedule-free",
        gradients=1,
        optimizer=lambda setting: schedule_free_adamw(setting["rate"]),
        eval_params=schedule_free_eval_params,
    )
