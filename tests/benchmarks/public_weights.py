"""Random weights under the names of the public ones."""

import numpy as np


def random_weights(blocks: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A network with that many blocks in each stage; features keep their size from layer to layer."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}

    def add(convolution: str, norm: str, before: int, width: int) -> None:
        weights[f"{convolution}.weight"] = rng.normal(0, (2 / (9 * before)) ** 0.5, (width, before, 3, 3))
        weights[f"{norm}.weight"] = rng.uniform(0.5, 1.5, width)
        weights[f"{norm}.bias"] = rng.normal(0, 0.1, width)
        weights[f"{norm}.running_mean"] = rng.normal(0, 0.1, width)
        weights[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, width)

    add("conv1", "bn1", 3, 16)
    before = 16
    for stage, width in enumerate((16, 32, 64), start=1):
        for i in range(blocks):
            add(f"layer{stage}.{i}.conv1", f"layer{stage}.{i}.bn1", before, width)
            add(f"layer{stage}.{i}.conv2", f"layer{stage}.{i}.bn2", width, width)
            before = width
    weights["linear.weight"], weights["linear.bias"] = rng.normal(0, 0.1, (10, 64)), rng.normal(0, 0.1, 10)
    return {name: array.astype(np.float32) for name, array in weights.items()}
