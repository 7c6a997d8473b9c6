"""Runs many training steps in one compiled call, for the JAX backend, so that a GPU does not wait for Python.

Batches, the seeds of dropout and the order of the steps are the same as with other backends.
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
from loupe.training.optimization import LOSSES, compute_dropout_seed, get_dropout_states

CALL_SECONDS = 0.5  # target duration of a call; during a call, signals and the progress bar must wait
MAX_CALL_STEPS = 256
MAX_CALL_STEPS_WITH_HOST_BATCHES = 32  # the limit is lower because the device stores all batches of a call
MAX_GROWTH = 4  # a call has at most this multiple of the steps of the previous call
MAX_IMAGES_SHARE = 0.5  # the images may fill this share of the device's memory
DEFAULT_MAX_IMAGES_BYTES = 2**31  # the images may have this size if the device does not report its memory
CUTTING_THREADS = 4
# On a CPU, convolutions take 29 times as long inside a loop of XLA as without a loop (bundled network tiny, 8 crops
# per batch).
LOOP_CONVOLUTIONS_ON_CPU = False

State = tuple[list[Any], list[Any], list[Any]]  # trainable weights, other weights, variables of the optimizer
LossCallback = Callable[[int, np.ndarray], None]  # takes the number of the first step, and the losses


class CompiledSteps:
    """Trains a model on batches, many steps per call. On a CPU, a call of a model with convolutions has one step.

    If the images fit into the device's memory, the device cuts the batches. Otherwise, threads on the host cut the
    batches of the next call while the device computes.

    Args:
        model: a compiled Keras model, on the JAX backend.
        settings: the settings of the training.
        patches: the source of the batches.
        size: inputs per batch.

    Raises:
        UsageError: the devices of the settings do not exist or cannot share a batch.
    """

    def __init__(self, model: keras.Model, settings: GradientTrain, patches: Patches, size: int) -> None:
        self._model, self._patches, self._size, self._seed = model, patches, size, settings.seed
        self._loss = keras.losses.get(LOSSES[settings.loss])
        states = get_dropout_states(model)
        variables = [id(variable) for variable in model.non_trainable_variables]
        self._dropout_positions = [variables.index(id(state)) for state in states]
        devices = choose_devices(settings.devices, size)
        mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
        self._first_device = devices[0]
        # Two distributions of arrays: a copy on each device, or a part of each batch on each device
        self._replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self._by_batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "batch"))
        self._images = self._load_images(devices[0])
        self._max_steps = MAX_CALL_STEPS_WITH_HOST_BATCHES if self._images is None else MAX_CALL_STEPS
        if devices[0].platform == "cpu" and not LOOP_CONVOLUTIONS_ON_CPU and _has_convolutions(model):
            self._max_steps = 1
        self._call_steps = 1
        self._call = jax.jit(self._run_call, donate_argnums=0, out_shardings=self._replicated)

    def run(self, steps: range, report_losses: LossCallback) -> None:
        """Train for these steps and update the model.

        Args:
            steps: the numbers of the steps.
            report_losses: gets the number of the first step of a compiled call, and the losses of all its steps. It
                runs while the device computes the next call, if any. If it raises an exception, the training ends,
                and the model is not updated.
        """
        state = self._read_state()
        last_call: tuple[int, int, Any] | None = None  # first step, number of steps, losses
        step, start_time = steps.start, time.perf_counter()
        with ThreadPoolExecutor(CUTTING_THREADS) as pool:
            while step < steps.stop or last_call:
                new_call = None
                if step < steps.stop:
                    count = min(self._call_steps, steps.stop - step)
                    batches = self._draw_batches(range(step, step + count), pool)
                    state, losses = self._call(state, self._images, batches, step, count)
                    new_call = step, count, losses
                    step += count
                if last_call:
                    first, count, losses = last_call
                    report_losses(first, self._read_losses(losses, count))
                    start_time = self._choose_call_steps(count, start_time)
                last_call = new_call
        self._write_state(state)

    def _read_losses(self, losses: Any, count: int) -> np.ndarray:
        """Wait for the end of a call and return its losses."""
        return np.asarray(losses)[:count]

    def _choose_call_steps(self, count: int, start_time: float) -> float:
        """Choose the number of steps of the next call, and return the current time.

        The last call had `count` steps and took the time since `start_time`.
        """
        now = time.perf_counter()
        target = int(CALL_SECONDS * count / max(now - start_time, 1e-9))
        self._call_steps = max(1, min(target, MAX_GROWTH * self._call_steps, self._max_steps))
        return now

    def _run_call(self, state: State, images: Any, batches: Any, first: Any, count: Any) -> tuple[State, Any]:
        """Run `count` steps from step `first`; return the new state, and the losses padded with 0 to `_max_steps`."""

        def run_step(index: Any, carry: tuple[State, Any]) -> tuple[State, Any]:
            (trainable, others, optimizer), losses = carry
            *drawn, strengths = [part[index] for part in batches]
            inputs, labels = _make_batch(images, drawn, self._patches.sides)
            if self._patches.pairs.strengths is not None:
                plane = jnp.broadcast_to(strengths[:, None, None, None], inputs.shape)
                inputs = jnp.concatenate([inputs, plane], axis=-1)
            for number, position in enumerate(self._dropout_positions):
                random_state = [compute_dropout_seed(self._seed, number), first + index]
                dtype = others[position].dtype
                others[position] = jnp.stack([jnp.asarray(value, dtype) for value in random_state])
            compute = jax.value_and_grad(self._compute_loss, has_aux=True)
            (loss, others), gradients = compute(trainable, others, inputs, labels)
            trainable, optimizer = self._model.optimizer.stateless_apply(optimizer, gradients, trainable)
            return (trainable, others, optimizer), losses.at[index].set(loss)

        start = (state, jnp.zeros(self._max_steps))
        return run_step(0, start) if self._max_steps == 1 else jax.lax.fori_loop(0, count, run_step, start)

    def _compute_loss(
        self, trainable: list[Any], others: list[Any], inputs: Any, labels: Any
    ) -> tuple[Any, list[Any]]:
        outputs, others = self._model.stateless_call(trainable, others, inputs, training=True)
        return jnp.mean(self._loss(labels, outputs)), others

    def _draw_batches(self, steps: range, pool: Executor) -> list[Any]:
        """Return the arrays of a call, with one row per step, padded with 0 to `_max_steps` rows.

        The first arrays are the positions and symmetries of the crops, or uint8 inputs and labels if the host cuts
        the crops. The last array contains the strengths of JPEG artefacts.
        """
        positions = [self._patches.draw_positions(step, self._size) for step in steps]
        per_step: list[tuple[np.ndarray, ...]]
        if self._images is None:
            per_step = list(pool.map(self._patches.cut, positions))
        else:
            per_step = [(at.pair_numbers, at.input_corners, at.label_corners, at.symmetries) for at in positions]
        strengths = self._patches.pairs.strengths
        if strengths is None:
            strengths = np.zeros(len(self._patches.pairs), "float32")
        per_step = [(*arrays, strengths[at.pair_numbers]) for arrays, at in zip(per_step, positions, strict=True)]
        batches = []
        for values in zip(*per_step, strict=True):
            integers = np.uint8 if self._images is None else np.int32
            dtype = integers if values[0].dtype.kind in "iu" else np.float32
            batches.append(np.zeros((self._max_steps, *values[0].shape), dtype))
            np.stack(values, out=batches[-1][: len(values)], casting="same_kind")
        return [jax.device_put(values, self._by_batch) for values in batches]

    def _load_images(self, device: Any) -> tuple[Any, Any] | None:
        """Copy the inputs and the labels to the devices and return them; return None if they are too large."""
        pairs = self._patches.pairs
        memory = (device.memory_stats() or {}).get("bytes_limit")
        limit = MAX_IMAGES_SHARE * memory if memory else DEFAULT_MAX_IMAGES_BYTES
        if len(pairs) * sum(side**2 for side in pairs.sides) > limit:
            return None
        inputs, labels = pairs.copy_to_memory()
        return jax.device_put(inputs, self._replicated), jax.device_put(labels, self._replicated)

    def _get_variables(self) -> tuple[list[Any], list[Any], list[Any]]:
        model = self._model
        return model.trainable_variables, model.non_trainable_variables, model.optimizer.variables

    def _read_state(self) -> State:
        """Return copies of the variables, because a call overwrites the arrays that it gets."""
        copies = [[np.array(each.value) for each in group] for group in self._get_variables()]
        trainable, others, optimizer = jax.device_put(copies, self._replicated)
        return trainable, others, optimizer

    def _write_state(self, state: State) -> None:
        for group, values in zip(self._get_variables(), state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(jax.device_put(value, self._first_device))


def _has_convolutions(model: keras.Model) -> bool:
    return any(isinstance(layer, keras.layers.Conv2D) for layer in model.layers)


def choose_devices(setting: int | str, size: int) -> list[Any]:
    """Return the devices that share a batch of `size` inputs; raise UsageError if this is impossible."""
    devices = jax.local_devices()
    count = len(devices) if setting == "all" else int(setting)
    if count > len(devices):
        raise UsageError(f"devices: must be all, or 1 to {len(devices)} on this machine, got {setting}")
    if size % count:
        got = f"all ({count} devices)" if setting == "all" else setting
        raise UsageError(f"devices: must be a divisor of the number of inputs per batch, {size}, got {got}")
    return devices[:count]


def _make_batch(images: tuple[Any, Any] | None, arrays: list[Any], sides: tuple[int, int]) -> tuple[Any, Any]:
    """Return inputs and labels of one step, float32 (n, side, side, 1) in [-1, 1].

    `arrays` contains the positions and symmetries of the crops or, if `images` is None, uint8 inputs and labels.
    """
    if images is None:
        inputs, labels = arrays
    else:
        pair_numbers, input_corners, label_corners, symmetries = arrays
        inputs, labels = (
            _apply_symmetries(_cut(whole, pair_numbers, corners, side), symmetries)
            for whole, corners, side in zip(images, (input_corners, label_corners), sides, strict=True)
        )
    inputs, labels = (part.astype("float32")[..., None] / 127.5 - 1 for part in (inputs, labels))
    return inputs, labels


def _cut(images: Any, numbers: Any, corners: Any, side: int) -> Any:
    """Cut squares as `patches.cut_squares` does."""

    def cut_one(number: Any, corner: Any) -> Any:
        return jax.lax.dynamic_slice(images, (number, corner[0], corner[1]), (1, side, side))[0]

    return jax.vmap(cut_one)(numbers, corners)


def _apply_symmetries(images: Any, symmetries: Any) -> Any:
    """Apply a symmetry to each image, (n, side, side), as in `patches.apply_symmetry`."""
    numbers = symmetries[:, None, None]
    images = jnp.where(numbers >= 4, images[..., ::-1], images)
    images = jnp.where(numbers % 4 >= 2, images[..., ::-1, ::-1], images)
    return jnp.where(numbers % 2 == 1, jnp.rot90(images, axes=(-2, -1)), images)
