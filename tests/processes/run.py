"""Fine-tuning of the demo's model over processes: `python -m tests.processes.run ACTION TASK FOLDER [I N PORT]`.

    straight   trains from the beginning to the end, and writes the end to FOLDER/straight-N.npz
    endless    trains, saves a checkpoint in the middle, says so, and trains on until something ends it
    resume     trains from the checkpoint to the end, and writes it to FOLDER/resumed-N.npz

TASK is an archive of the model's converged parameters and of the new task's images. This is process I of N, which meet
at PORT; without these there is one process. Every form trains, with parameters, state and batches in as many pieces as
there are devices.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.forgetting.tasks.digits import Model
from profit_optax import eval_params, profit, profit_transparent
from tests.forms import one_line

# Seven calls are two cycles of the transparent form, and one call.
MIDDLE, END = 7, 12
N_REF, BATCH = 2, 8
MAIN, REFERENCE = optax.adamw(3e-3), optax.sgd(3e-2)
FORMS = {
    "closure": profit(MAIN, REFERENCE, N_REF),
    "transparent": profit_transparent(MAIN, REFERENCE, N_REF),
    "one-line": one_line(MAIN, REFERENCE),
}
# So long may a process be silent before the others give up.
HEARTBEAT_TIMEOUT_S = 10


def meet(process: str = "0", processes: str = "1", port: str = "") -> Mesh:
    """All devices of all processes."""
    if port:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"127.0.0.1:{port}",
            int(processes),
            int(process),
            initialization_timeout=60,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
        )
    return jax.make_mesh((jax.device_count(),), ("devices",), axis_types=(AxisType.Auto,))


def on(mesh: Mesh, x: Any) -> NamedSharding:
    """The last axis in as many pieces as there are devices, where they divide it."""
    in_pieces = x.ndim > 0 and x.shape[-1] % mesh.size == 0
    return NamedSharding(mesh, P(*[None] * (x.ndim - 1), "devices") if in_pieces else P())


def loss_fn(params: Any, batch: Any) -> jax.Array:
    logits = Model().apply(params, batch["images"])
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]))


def call_of(form: str, mesh: Mesh) -> Callable[..., Any]:
    value_and_grad_fn = jax.value_and_grad(loss_fn)

    def call(run: Any, batches: Any) -> Any:
        params, state = run["params"], run["opt_state"]
        first, others = jax.tree.map(lambda x: x[0], batches), jax.tree.map(lambda x: x[1:], batches)
        _, grads = value_and_grad_fn(params, first)
        closure = {"value_and_grad_fn": value_and_grad_fn, "batches": others} if form == "closure" else {}
        updates, state = FORMS[form].update(grads, state, params, **closure)
        return {"params": optax.apply_updates(params, updates), "opt_state": state}

    return jax.jit(call, out_shardings=shardings(form, mesh), donate_argnums=0)


def start(task: str) -> Any:
    """The converged parameters, the same arrays in every process."""
    with np.load(task) as archive:
        like = jax.eval_shape(Model().init, jax.random.key(0), jnp.zeros((1, 64)))
        leaves = [archive[jax.tree_util.keystr(path)] for path, _ in jax.tree.leaves_with_path(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)


def abstract(form: str) -> Any:
    params = jax.eval_shape(Model().init, jax.random.key(0), jnp.zeros((1, 64)))
    return {"params": params, "opt_state": jax.eval_shape(FORMS[form].init, params)}


def shardings(form: str, mesh: Mesh) -> Any:
    return jax.tree.map(lambda x: on(mesh, x), abstract(form))


def initial(form: str, mesh: Mesh, task: str) -> Any:
    init = lambda params: {"params": params, "opt_state": FORMS[form].init(params)}  # noqa: E731
    return jax.jit(init, out_shardings=shardings(form, mesh))(start(task))


def batches_of(form: str, call: int, mesh: Mesh, task: dict[str, np.ndarray]) -> Any:
    """The batches of a call, known by its number. Of each batch a process makes the part that its devices need."""
    count = N_REF + 1 if form == "closure" else 1
    indices = np.random.default_rng(call).integers(len(task["labels"]), size=(count, BATCH))
    sharding = NamedSharding(mesh, P(None, "devices"))

    def place(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback((*indices.shape, *x.shape[1:]), sharding, lambda part: x[indices[part[:2]]])

    return {name: place(x) for name, x in task.items()}


def train(form: str, mesh: Mesh, task: str, run: Any, calls: Any) -> Any:
    with np.load(task) as archive:
        data = {name: archive[name] for name in ("images", "labels")}
    call, cosines = call_of(form, mesh), []
    for i in calls:
        run = call(run, batches_of(form, i, mesh, data))
        cosines.append(float(optax.tree.get(run["opt_state"], "cosine")))
    return run, np.array(cosines)


def write(out: Path, name: str, run: Any, arrays: dict[str, np.ndarray]) -> None:
    """Adds parameters, state and θ of a run to an archive's arrays, whole."""
    run = run | {"theta": eval_params(run["opt_state"], run["params"])}
    whole = multihost_utils.process_allgather(run, tiled=True)
    for path, x in jax.tree.leaves_with_path(whole):
        arrays[f"{name}{jax.tree_util.keystr(path)}"] = np.asarray(x)
    if jax.process_index() == 0:
        np.savez(out, **arrays)


def checkpoints(folder: Path, form: str) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(folder / "checkpoints" / form)


def straight(mesh: Mesh, task: str, folder: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for form in FORMS:
        run, arrays[f"{form} cosines"] = train(form, mesh, task, initial(form, mesh, task), range(END))
        write(folder / f"straight-{jax.process_count()}.npz", form, run, arrays)


def endless(mesh: Mesh, task: str, folder: Path) -> None:
    for form in FORMS:
        run, _ = train(form, mesh, task, initial(form, mesh, task), range(MIDDLE))
        with checkpoints(folder, form) as manager:
            manager.save(MIDDLE, args=ocp.args.StandardSave(run))
            manager.wait_until_finished()
    print("saved", flush=True)
    while True:
        run, _ = train(form, mesh, task, run, range(END))


def resume(mesh: Mesh, task: str, folder: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for form in FORMS:
        like = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            abstract(form),
            shardings(form, mesh),
        )
        with checkpoints(folder, form) as manager:
            assert manager.latest_step() == MIDDLE
            run = manager.restore(MIDDLE, args=ocp.args.StandardRestore(like))
        run, arrays[f"{form} cosines"] = train(form, mesh, task, run, range(MIDDLE, END))
        write(folder / f"resumed-{jax.process_count()}.npz", form, run, arrays)


if __name__ == "__main__":
    action, task, folder, *place = sys.argv[1:]
    {"straight": straight, "endless": endless, "resume": resume}[action](meet(*place), task, Path(folder))
