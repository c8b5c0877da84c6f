"""The paper's figures: old and new accuracy in percent (Tables 2, 6, 8, 9 and 10)."""

from collections.abc import Mapping

# By network and arm. Its Adam stands beside AdamW here, which decays weights by 1e-4 times the rate.
OPTIMIZERS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "resnet18": {
        "sgd": (24.49, 74.59),
        "adamw": (34.64, 73.11),
        "lookahead": (26.10, 73.82),
        "adan": (35.17, 72.70),
        "profit": (35.26, 74.70),
        "n_ref2": (32.55, 73.57),
        "n_ref5": (39.27, 71.42),
        "ratio100": (35.16, 74.45),
        "ratio1000": (34.35, 74.27),
        "ratio10000": (35.83, 74.41),
    },
    "vit_tiny": {
        "sgd": (53.63, 61.98),
        "adamw": (56.00, 58.99),
        "lookahead": (55.64, 61.35),
        "adan": (53.04, 61.62),
        "profit": (58.53, 62.20),
    },
    "vit_small": {
        "sgd": (57.93, 65.04),
        "adamw": (58.60, 63.93),
        "lookahead": (57.81, 65.27),
        "adan": (53.85, 64.09),
        "profit": (59.02, 65.44),
    },
}

# Of the old models, on CIFAR-10.
BASES: Mapping[str, float] = {"resnet18": 91.06, "vit_tiny": 82.38, "vit_small": 83.86}


def figures(network: str) -> tuple[str, Mapping[str, tuple[float, float]]]:
    """The paper's network to compare with, which is ResNet-18 for one that the paper does not have, and its figures."""
    name = network if network in OPTIMIZERS else "resnet18"
    return name, OPTIMIZERS[name]
