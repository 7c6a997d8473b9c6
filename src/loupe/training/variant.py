"""Builds the network of given settings, and describes the settings in a short name."""

import json

import keras
import numpy as np

from loupe.config.fields import format_value
from loupe.config.networks import Ridge
from loupe.config.training import GradientTrain, Train
from loupe.data.pairs import Pairs
from loupe.errors import UsageError
from loupe.models import builder, keras_file
from loupe.training import batches
from loupe.training.steps import validate_devices
from loupe.upscalers import ridge


def build_network(
    settings: Train, train: Pairs, luminance: str, weights: np.ndarray, initial: keras.Model | None = None
) -> keras.Model:
    """Build the Keras model of the settings with its initial weights. A ridge model gets its final weights.

    `luminance` is the luminance formula of the dataset. `weights` are the ridge weights of all its training photos
    (see `ridge.fit`); with another `limit` or `alpha`, ridge is fitted on `train`. `initial` is the network of
    `settings.initial_weights`, or None.

    Raises:
        UsageError: training crops are larger than the dataset's inputs, `devices` cannot be used, no layer can copy
            the weights of `initial` (see `builder.copy_matching_weights`), or the network cannot be exported to ONNX
            or is larger than `keras_file.load` accepts.
    """
    if isinstance(settings, Ridge):
        if settings.limit is not None or settings.alpha != ridge.ALPHA:
            weights = ridge.fit(train, settings.alpha)
        return builder.build_ridge(weights, settings.scale, luminance)
    assert isinstance(settings, GradientTrain)
    input_side = train.sides[0]
    geometry = builder.compute_geometry(settings, input_side, luminance)
    # Raises UsageError for crops that are too large.
    _, batch_inputs = batches.open_patches(settings, train, geometry)
    validate_devices(settings, batch_inputs)
    if settings.limit is not None and settings.skip == "ridge":
        weights = ridge.fit(train)
    model = builder.build(settings, input_side, luminance, weights)
    if initial is not None and not builder.copy_matching_weights(model, initial):
        rule = (
            "must have at least one layer whose weights have the shapes of the layer at the same position in the new "
            "network"
        )
        raise UsageError(f"initial_weights: {rule}, got {settings.initial_weights!r}")
    try:
        builder.measure_costs(model)
    except ValueError as error:  # a network that a user added has layers or activations that cannot be exported
        raise UsageError(f"network: {settings.network} cannot be exported to ONNX: {error}") from None
    try:
        keras_file.validate_size(json.loads(model.to_json()))
    except ValueError as error:
        raise UsageError(f"network: {error}") from None
    return model


def describe(settings: Train) -> str:
    """Return a short name for lists of runs, such as `perceptron 10:15 2048,1024 tanh rmsprop`."""
    if not isinstance(settings, GradientTrain):
        return f"{settings.network} {format_value(settings.scale)}"
    parts = [settings.network, *(format_value(getattr(settings, name)) for name in settings.NAME_FIELDS)]
    return " ".join([*parts, *(["skip"] if settings.skip == "ridge" else [])])
