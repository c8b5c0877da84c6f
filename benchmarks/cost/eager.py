"""Algorithm 1 in eager PyTorch, with PyTorch's own optimizers: what somebody without JAX would run."""

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import chex
import jax
import numpy as np
from flax import traverse_util

from benchmarks.cost import arms
from benchmarks.cost.cases import Case
from benchmarks.cost.stepper import Stepper

# Optax's default; PyTorch's is another.
_WEIGHT_DECAY = 1e-4


def missing(case: Case) -> str | None:
    """Why this case cannot be run in PyTorch here; None if it can."""
    if case.eager is None:
        return "no PyTorch model"
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    if jax.default_backend() != "cpu" and not _torch().cuda.is_available():
        return "PyTorch is built without this device"
    return None


def prepare(case: Case, n_ref: int) -> Stepper:
    """A stepper that takes a whole step of Algorithm 1 on the device that JAX uses."""
    torch, loss = _torch(), case.eager
    assert loss is not None
    on_gpu = jax.default_backend() != "cpu"
    if on_gpu:
        # As in JAX, whose default precision on a GPU lets matrix units round their inputs to TF32.
        torch.set_float32_matmul_precision("high")
    device = "cuda" if on_gpu else "cpu"
    trained, frozen = (tensors(torch, tree, device) for tree in (case.params, case.frozen))
    params = [p.requires_grad_() for p in trained.values()]
    main = torch.optim.AdamW(params, lr=arms.MAIN_RATE, weight_decay=_WEIGHT_DECAY)
    reference = torch.optim.SGD(params, lr=arms.REFERENCE_RATE)
    batches = [
        jax.tree.map(lambda x, i=i: _tensor(torch, x[i], device), case.batches(n_ref + 1)) for i in range(n_ref + 1)
    ]

    def backward(batch: Any) -> None:
        main.zero_grad()
        loss(torch, {**trained, **frozen}, batch).backward()

    def step() -> None:
        theta = [p.detach().clone() for p in params]
        for batch in batches[:-1]:
            backward(batch)
            reference.step()
        backward(batches[-1])
        with torch.no_grad():
            delta = [p - q for p, q in zip(params, theta, strict=True)]
            omega = sum(torch.sum(d * p.grad) for d, p in zip(delta, params, strict=True))
            if omega < 0:
                square = sum(torch.sum(d * d) for d in delta)
                for p, d in zip(params, delta, strict=True):
                    p.grad -= omega / square * d
            for p, q in zip(params, theta, strict=True):
                p.copy_(q)
        main.step()
        if on_gpu:
            torch.cuda.synchronize()

    return Stepper(step, lambda: arrays(trained))


def tensors(torch: Any, params: chex.ArrayTree, device: str) -> dict[str, Any]:
    """Flax parameters by path, the kernels of convolutions with the axes in PyTorch's order."""
    flat = traverse_util.flatten_dict(params.get("params", {}), sep="/")
    return {name: _tensor(torch, np.transpose(x, _order(x.ndim)), device) for name, x in flat.items()}


def arrays(params: Mapping[str, Any]) -> chex.ArrayTree:
    """Back from `tensors`."""
    flat = {name: x.detach().cpu().numpy() for name, x in params.items()}
    back = {name: np.transpose(x, np.argsort(_order(x.ndim))) for name, x in flat.items()}
    return {"params": traverse_util.unflatten_dict(back, sep="/")}


def _order(ndim: int) -> tuple[int, ...]:
    return (3, 2, 0, 1) if ndim == 4 else tuple(range(ndim))


def _tensor(torch: Any, x: Any, device: str) -> Any:
    array = np.array(x, order="C")
    return torch.from_numpy(array.astype(np.int64) if array.dtype == np.int32 else array).to(device)


def _torch() -> Any:
    return importlib.import_module("torch")
