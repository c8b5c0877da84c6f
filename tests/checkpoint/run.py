"""A fine-tuning run with Orbax checkpoints, in a process of its own: `python -m tests.checkpoint.run ACTION ...`.

    straight OUT [CALLS]       trains from the beginning to the end
    endless DIRECTORY          trains, saves a checkpoint at the middle, says so, and trains on until it is killed
    resume DIRECTORY OUT       trains from the checkpoint to the end
    resave DIRECTORY OTHER     restores the checkpoint and saves it elsewhere
    lives DIRECTORY OUT CALLS  trains to call CALLS from the last one that was saved; saves and names every call

Each form trains on its own, with the arrays sharded over all devices of the process. OUT is an archive of parameters,
state and θ of each form at its end, and, of a resumed run, as they were restored.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

from profit_optax import eval_params, profit, profit_transparent
from profit_optax.training import make_train_step
from tests.forms import one_line

# Seven calls are two cycles of the transparent form, and one call.
MIDDLE, END = 7, 13
N_REF = 2
MAIN, REFERENCE = optax.adamw(1e-2), optax.sgd(1e-3, momentum=0.5)
FORMS = {
    "closure": profit(MAIN, REFERENCE, N_REF),
    "transparent": profit_transparent(MAIN, REFERENCE, N_REF),
    "one-line": one_line(MAIN, REFERENCE),
}


def loss_fn(params: Any, x: jax.Array) -> jax.Array:
    return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - jnp.sin(jnp.sum(x, axis=-1))) ** 2)


def init_params() -> Any:
    w, v = jax.random.split(jax.random.key(0))
    return {"w": jax.random.normal(w, (8, 16)), "v": jax.random.normal(v, (16,))}


def batches_of(form: str, call: int) -> np.ndarray:
    """The batches of a call, known by its number: what a loader that can resume yields."""
    return np.random.default_rng(call).normal(size=(N_REF + 1 if form == "closure" else 1, 32, 8)).astype(np.float32)


def on_all_devices(tree: Any) -> Any:
    """Abstract arrays with the sharding that this process keeps them in."""
    mesh = jax.make_mesh((jax.device_count(),), ("x",))

    def sharded(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec("x") if x.ndim else PartitionSpec())
        )

    return jax.tree.map(sharded, tree)


def abstract(form: str) -> Any:
    params = jax.eval_shape(init_params)
    return on_all_devices({"params": params, "opt_state": jax.eval_shape(FORMS[form].init, params)})


def initial(form: str) -> Any:
    params = init_params()
    arrays = {"params": params, "opt_state": FORMS[form].init(params)}
    return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), arrays, abstract(form))


def train(form: str, run: Any, start: int, end: int) -> Any:
    train_step = make_train_step(loss_fn, FORMS[form])
    params, opt_state = run["params"], run["opt_state"]
    for call in range(start, end):
        params, opt_state, _ = train_step(params, opt_state, batches_of(form, call))
    return {"params": params, "opt_state": opt_state}


def save(directory: Path, form: str, run: Any) -> None:
    with ocp.CheckpointManager(directory / form) as manager:
        manager.save(MIDDLE, args=ocp.args.StandardSave(run))
        manager.wait_until_finished()


def restore(directory: Path, form: str) -> Any:
    with ocp.CheckpointManager(directory / form) as manager:
        return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(abstract(form)))


def archive(name: str, run: Any) -> dict[str, np.ndarray]:
    run = run | {"theta": eval_params(run["opt_state"], run["params"])}
    return {f"{name}{jax.tree_util.keystr(path)}": np.asarray(x) for path, x in jax.tree.leaves_with_path(run)}


def straight(out: str, calls: str = str(END)) -> None:
    arrays = {}
    for form in FORMS:
        arrays |= archive(f"{form} end", train(form, initial(form), 0, int(calls)))
    np.savez(out, **arrays)


def lives(directory: str, out: str, calls: str) -> None:
    arrays = {}
    for form in FORMS:
        train_step = make_train_step(loss_fn, FORMS[form])
        with ocp.CheckpointManager(Path(directory) / form, options=ocp.CheckpointManagerOptions(max_to_keep=2)) as kept:
            done = kept.latest_step()
            run = initial(form) if done is None else kept.restore(done, args=ocp.args.StandardRestore(abstract(form)))
            params, opt_state = run["params"], run["opt_state"]
            for call in range(done or 0, int(calls)):
                params, opt_state, _ = train_step(params, opt_state, batches_of(form, call))
                # Written while the next step is taken: what may be ended is a write, too.
                kept.save(call + 1, args=ocp.args.StandardSave({"params": params, "opt_state": opt_state}))
                print(f"{form} {call}", flush=True)
            kept.wait_until_finished()
        arrays |= archive(f"{form} end", {"params": params, "opt_state": opt_state})
    np.savez(out, **arrays)


def endless(directory: str) -> None:
    for form in FORMS:
        run = train(form, initial(form), 0, MIDDLE)
        save(Path(directory), form, run)
    print("saved", flush=True)
    while True:
        run = train(form, run, 0, END)


def resume(directory: str, out: str) -> None:
    arrays = {}
    for form in FORMS:
        run = restore(Path(directory), form)
        assert jax.tree.all(jax.tree.map(lambda x, like: x.sharding == like.sharding, run, abstract(form)))
        arrays |= archive(f"{form} restored", run)
        arrays |= archive(f"{form} end", train(form, run, MIDDLE, END))
    np.savez(out, **arrays)


def resave(directory: str, other: str) -> None:
    for form in FORMS:
        save(Path(other), form, restore(Path(directory), form))


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    actions = {"straight": straight, "endless": endless, "resume": resume, "resave": resave, "lives": lives}
    actions[action](*arguments)
