"""Runs many training steps in one compiled call, for the JAX backend. An accelerator then does not wait for Python.

The batches, the dropout and the order of the steps are the same as with other backends.
"""

import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from loupe.config.training import GradientTrain
from loupe.data.patches import Patches
from loupe.errors import UsageError
from loupe.training.optimization import LOSSES, get_dropout_states

CALL_SECONDS = 0.5  # target duration of a call: signals and the progress bar wait for the end of a call
MAX_CALL_STEPS = 256
MAX_CUT_STEPS = 32  # if the host cuts the batches, because the batches of a call are transferred together
MAX_GROWTH = 4  # of the number of steps from one call to the next
DEVICE_SHARE = 0.5  # share of the device's memory that the images may use
HOST_BYTES = 2**31  # of images, on a device that does not report its memory
CUTTING_THREADS = 4
LOOP_CONVOLUTIONS_ON_CPU = False  # XLA's convolutions on a CPU are 29 times slower inside a loop (tiny, 8 crops)

State = tuple[list[Any], list[Any], list[Any]]  # trainable weights, other weights, variables of the optimizer
Watch = Callable[[int, np.ndarray], None]


class CompiledSteps:
    """Trains a model on batches of `patches`, many steps per call.

    If the images fit, they are stored on the device as uint8, and a call cuts its own batches. Otherwise, threads on
    the host cut the batches of the next call while the device computes.

    Args:
        model: a compiled Keras model, on the JAX backend.
        settings: the settings of the training.
        patches: the source of the batches.
        size: inputs per batch.
    """

    def __init__(self, model: keras.Model, settings: GradientTrain, patches: Patches, size: int) -> None:
        self._model, self._patches, self._size, self._seed = model, patches, size, settings.seed
        self._loss = keras.losses.get(LOSSES[settings.loss])
        states = get_dropout_states(model)
        variables = [id(variable) for variable in model.non_trainable_variables]
        self._dropouts = [variables.index(id(state)) for state in states]
        devices = _choose_devices(settings.devices, size)
        mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
        self._home = devices[0]
        self._replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self._by_batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "batch"))
        self._images = self._load_images(devices[0])
        self._max_steps = MAX_CUT_STEPS if self._images is None else MAX_CALL_STEPS
        if devices[0].platform == "cpu" and not LOOP_CONVOLUTIONS_ON_CPU and _has_convolutions(model):
            self._max_steps = 1
        self._call_steps = 1
        self._call = jax.jit(self._run_call, donate_argnums=0, out_shardings=self._replicated)

    def run(self, steps: range, watch: Watch) -> None:
        """Train for these steps and update the model.

        Args:
            steps: the numbers of the steps.
            watch: called with the first step and the losses of a call, while the device computes the next call. The
                function may raise an exception to end the training.
        """
        state = self._read_state()
        running: tuple[int, int, Any] | None = None
        step, started = steps.start, time.perf_counter()
        with ThreadPoolExecutor(CUTTING_THREADS) as pool:
            while step < steps.stop or running:
                started_now = None
                if step < steps.stop:
                    count = min(self._call_steps, steps.stop - step)
                    batches = self._draw_batches(range(step, step + count), pool)
                    state, losses = self._call(state, self._images, batches, step, count)
                    started_now = step, count, losses
                    step += count
                if running:
                    first, count, losses = running
                    watch(first, self._read_losses(losses, count))
                    started = self._adapt(count, started)
                running = started_now
        self._write_state(state)

    def _read_losses(self, losses: Any, count: int) -> np.ndarray:
        """Wait for the end of a call and return the losses of its steps."""
        return np.asarray(losses)[:count]

    def _adapt(self, count: int, started: float) -> float:
        """Choose the number of steps of the next call from the duration of the last call; return the current time."""
        now = time.perf_counter()
        fitting = int(CALL_SECONDS * count / max(now - started, 1e-9))
        self._call_steps = max(1, min(fitting, MAX_GROWTH * self._call_steps, self._max_steps))
        return now

    def _run_call(self, state: State, images: Any, batches: Any, first: Any, count: Any) -> tuple[State, Any]:
        """Run `count` steps. One compiled program runs any number of steps up to the largest number."""

        def run_step(index: Any, carry: tuple[State, Any]) -> tuple[State, Any]:
            (trainable, others, optimizer), losses = carry
            *drawn, strengths = [part[index] for part in batches]
            inputs, labels = _make_batch(images, drawn, self._patches.sides)
            if self._patches.pairs.strengths is not None:
                plane = jnp.broadcast_to(strengths[:, None, None, None], inputs.shape)
                inputs = jnp.concatenate([inputs, plane], axis=-1)
            for number, place in enumerate(self._dropouts):
                words = [self._seed * 1009 + number, first + index]
                others[place] = jnp.stack([jnp.asarray(word, others[place].dtype) for word in words])
            compute = jax.value_and_grad(self._compute_loss, has_aux=True)
            (loss, others), gradients = compute(trainable, others, inputs, labels)
            trainable, optimizer = self._model.optimizer.stateless_apply(optimizer, gradients, trainable)
            return (trainable, others, optimizer), losses.at[index].set(loss)

        start = (state, jnp.zeros(self._max_steps))
        return run_step(0, start) if self._max_steps == 1 else jax.lax.fori_loop(0, count, run_step, start)

    def _compute_loss(
        self, trainable: list[Any], others: list[Any], inputs: Any, labels: Any
    ) -> tuple[Any, list[Any]]:
        large, others = self._model.stateless_call(trainable, others, inputs, training=True)
        return jnp.mean(self._loss(labels, large)), others

    def _draw_batches(self, steps: range, pool: Executor) -> list[Any]:
        """Return the data for the batches of a call, per step: positions, or uint8 inputs and labels; strengths."""
        drawn = [self._patches.draw_positions(step, self._size) for step in steps]
        parts: list[tuple[np.ndarray, ...]]
        if self._images is None:
            parts = list(pool.map(self._patches.cut, drawn))
        else:
            parts = [(at.chosen, at.offsets, at.corners, at.symmetries) for at in drawn]
        found = self._patches.pairs.strengths
        strengths = np.zeros(len(self._patches.pairs), "float32") if found is None else found
        parts = [(*part, strengths[at.chosen]) for part, at in zip(parts, drawn, strict=True)]
        batches = []
        for values in zip(*parts, strict=True):
            integers = np.uint8 if self._images is None else np.int32
            dtype = integers if values[0].dtype.kind in "iu" else np.float32
            batches.append(np.zeros((self._max_steps, *values[0].shape), dtype))
            np.stack(values, out=batches[-1][: len(values)], casting="same_kind")
        return [jax.device_put(values, self._by_batch) for values in batches]

    def _load_images(self, device: Any) -> tuple[Any, Any] | None:
        """Copy the images to the device; return None if they exceed DEVICE_SHARE of the memory."""
        pairs = self._patches.pairs
        memory = (device.memory_stats() or {}).get("bytes_limit")
        limit = DEVICE_SHARE * memory if memory else HOST_BYTES
        if len(pairs) * sum(side**2 for side in pairs.sides) > limit:
            return None
        inputs, labels = pairs.stack()
        return jax.device_put(inputs, self._replicated), jax.device_put(labels, self._replicated)

    def _get_variables(self) -> tuple[list[Any], list[Any], list[Any]]:
        model = self._model
        return model.trainable_variables, model.non_trainable_variables, model.optimizer.variables

    def _read_state(self) -> State:
        """Copy the variables to the devices, because a call overwrites its arguments."""
        copies = [[np.array(each.value) for each in group] for group in self._get_variables()]
        trainable, others, optimizer = jax.device_put(copies, self._replicated)
        return trainable, others, optimizer

    def _write_state(self, state: State) -> None:
        for group, values in zip(self._get_variables(), state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(jax.device_put(value, self._home))


def _has_convolutions(model: keras.Model) -> bool:
    return any(isinstance(layer, keras.layers.Conv2D) for layer in model.layers)


def _choose_devices(wanted: int | str, size: int) -> list[Any]:
    """Return the devices that share a batch.

    Raises:
        UsageError: there are fewer devices, or they cannot share a batch of this size equally.
    """
    devices = jax.local_devices()
    count = len(devices) if wanted == "all" else int(wanted)
    if count > len(devices):
        raise UsageError(f"devices: must be at most {len(devices)} on this machine, got {count}")
    if size % count:
        raise UsageError(f"devices: must divide the {size} inputs of a batch, got {count}")
    return devices[:count]


def _make_batch(images: tuple[Any, Any] | None, drawn: list[Any], sides: tuple[int, int]) -> tuple[Any, Any]:
    """Return inputs and labels, float32 (n, side, side, 1) in [-1, 1]."""
    if images is None:
        inputs, labels = drawn
    else:
        chosen, offsets, corners, symmetries = drawn
        inputs, labels = (
            _turn(_cut(whole, chosen, at, side), symmetries)
            for whole, at, side in zip(images, (offsets, corners), sides, strict=True)
        )
    inputs, labels = (part.astype("float32")[..., None] / 127.5 - 1 for part in (inputs, labels))
    return inputs, labels


def _cut(images: Any, chosen: Any, corners: Any, side: int) -> Any:
    """Cut squares as `patches.cut_squares` does."""

    def cut_one(number: Any, corner: Any) -> Any:
        return jax.lax.dynamic_slice(images, (number, corner[0], corner[1]), (1, side, side))[0]

    return jax.vmap(cut_one)(chosen, corners)


def _turn(images: Any, symmetries: Any) -> Any:
    """Apply a symmetry to each image, (n, side, side), as `patches.apply_symmetry` does."""
    at = symmetries[:, None, None]
    images = jnp.where(at >= 4, images[..., ::-1], images)
    images = jnp.where(at % 4 >= 2, images[..., ::-1, ::-1], images)
    return jnp.where(at % 2 == 1, jnp.rot90(images, axes=(-2, -1)), images)
