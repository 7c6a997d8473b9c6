"""Logs the images of a step as dataset inputs of its run."""

import json
from typing import Any

import numpy as np
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.schema import TensorDatasetSchema
from mlflow.types import Schema, TensorSpec

from loupe.config.fields import format_value
from loupe.data.dataset import Dataset
from loupe.data.manifest import MANIFEST
from loupe.data.storage import make_absolute
from loupe.errors import mask_values
from loupe.evaluation.protocols import Images
from loupe.tracking.records import log_record, log_tags


def log_dataset(dataset: Dataset, *contexts: str) -> None:
    """Log a prepared dataset as inputs of the run, and its name and digest as tags.

    There is one input per context. A context is the use of the images, such as `training` or `test`. MLflow stores
    one context per digest. Therefore the digest of each input after the first ends with the context, such as
    `0123456789ab-test`.
    """
    side = int(dataset.settings["label_size"])
    sides = {format_value(scale): side * scale.denominator // scale.numerator for scale in dataset.scales}
    source = {"manifest": make_absolute(f"{dataset.location}/{MANIFEST}"), **dataset.settings}
    profile = dataset.counts | {"label_side": side} | {f"input_side_{scale}": size for scale, size in sides.items()}
    for number, context in enumerate(contexts):
        digest = f"{dataset.digest}-{context}" if number else dataset.digest
        body = _describe(dataset.folder.name, digest, source)
        log_record("input", body | _describe_images(sides, side, profile) | {"context": context})
    log_tags({"loupe.dataset": dataset.folder.name, "loupe.digest": dataset.digest})


def log_images(images: Images, photos: int) -> None:
    """Log the images of `evaluate` as an input of the run, and their name and digest as tags.

    `photos` is the number of photos.
    """
    if images.dataset is not None:
        log_dataset(images.dataset, images.context)
        return
    input_side, label_side = getattr(images.pairs, "sides", (-1, -1))
    profile = {"photos": photos, "labels": len(images.pairs), "label_side": label_side, "input_side": input_side}
    sides = {format_value(images.pairs.scale): input_side}
    body = _describe(images.name, images.digest, images.source)
    log_record("input", body | _describe_images(sides, label_side, profile) | {"context": images.context})
    log_tags({"loupe.dataset": images.name, "loupe.digest": images.digest})


def _describe(name: str, digest: str, source: dict[str, str]) -> dict[str, Any]:
    fields = MetaDataset(CodeDatasetSource(mask_values(source)), name=name, digest=digest).to_dict()
    return {name: fields[name] for name in ("name", "digest", "source_type", "source")}


def _describe_images(input_sides: dict[str, int], label_side: int, profile: dict[str, int]) -> dict[str, str]:
    """Return the schema and the profile of grey images as JSON. A side of -1 means that the sizes differ."""
    inputs, labels = (
        Schema([TensorSpec(np.dtype("uint8"), (-1, side, side), name) for name, side in sides.items()])
        for sides in ({f"inputs {scale}": side for scale, side in input_sides.items()}, {"labels": label_side})
    )
    schema = TensorDatasetSchema(inputs, labels).to_dict()
    return {"schema": json.dumps(schema), "profile": json.dumps({"num_rows": profile["labels"]} | profile)}
