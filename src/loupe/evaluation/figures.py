"""The images that runs are logged with: pairs, spread, curves, prediction rows, comparisons."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from loupe.data.dataset import Pairs
from loupe.data.whole_photos import WholePhotos
from loupe.errors import LoupeError, UsageError
from loupe.imaging.atomic import write_atomically
from loupe.imaging.conversion import to_floats
from loupe.upscalers.tiling import UpscalingModel, upscale

SHOWN = {"vmin": -1.0, "vmax": 1.0, "cmap": "gray", "interpolation": "nearest"}
ROWS = 6
DPI = 120
TITLE_WIDTH = 22  # characters above a column
SHEET_IMAGES, SHEET_CANDIDATES = 4, 500


def validate_format(sheet: Path) -> None:
    """Raise UsageError where the suffix of a sheet's file names no format that figures are written in."""
    suffixes = FigureCanvasBase.get_supported_filetypes()
    if sheet.suffix and sheet.suffix[1:].lower() not in suffixes:
        raise UsageError(f"sheet: must end in one of {', '.join(sorted(suffixes))}, got {str(sheet)!r}")


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure to a file, under its name only when it is whole.

    Raises:
        LoupeError: it cannot be written.
    """
    try:
        with write_atomically(file) as partial:
            figure.savefig(partial, dpi=DPI, format=file.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise LoupeError(f"sheet: {str(file)!r} cannot be written: {error}") from None


def plot_pairs(pairs: Pairs) -> Figure:
    """Labels above their inputs, evenly from all pairs."""
    some = pairs.spread(8)
    figure = Figure(figsize=(1.7 * len(some), 3.6), layout="constrained")
    grid = figure.subplots(2, len(some), squeeze=False)
    for column in range(len(some)):
        small, label = some[column]
        for axes, image, name in ((grid[0, column], label, "label"), (grid[1, column], small, "input")):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(f"{name} {image.shape[1]}x{image.shape[0]}", fontsize=8)
            axes.axis("off")
    return figure


def plot_value_distribution(pairs: Pairs) -> Figure:
    """How the values of inputs and labels are spread over [-1, 1]."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    some, values = pairs.spread(100), to_floats(np.arange(256, dtype="uint8"))
    for index, name in enumerate(("inputs", "labels")):
        counts = sum(np.bincount(some[number][index].ravel(), minlength=256) for number in range(len(some)))
        mean = np.average(values, weights=counts)
        deviation = np.sqrt(np.average((values - mean) ** 2, weights=counts))
        text = f"{name}: mean {mean:.3f}, std {deviation:.3f}"
        axes.hist(values, bins=64, range=(-1, 1), weights=counts, histtype="step", density=True, label=text)
    axes.set(xlabel="luminance, -1 black, 1 white", ylabel="density", title="Spread of the values")
    axes.legend()
    return figure


def plot_image_statistics(pairs: Pairs) -> Figure:
    """Mean and standard deviation of each label: how different the images are."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    found = [(label.mean(axis=(1, 2, 3)), label.std(axis=(1, 2, 3))) for _, label in pairs.spread(300).batches(16)]
    means, deviations = map(np.concatenate, zip(*found, strict=True))
    axes.scatter(means, deviations, s=8, alpha=0.5)
    axes.set(xlabel="mean of a label", ylabel="standard deviation of a label", title="Spread of the images")
    axes.set(xlim=(-1, 1), ylim=(0, 1))
    return figure


def plot_learning_curves(points: Sequence[Mapping[str, Any]], baselines: Mapping[str, float]) -> Figure:
    """Mae and psnr over steps, training and validation, with the baselines' validation mae as lines."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [point["step"] for point in points]
    for axes, score in ((left, "mae"), (right, "psnr")):
        for split in ("train", "val"):
            axes.plot(steps, [point["metrics"][f"{split}/{score}"] for point in points], label=split, marker=".")
        axes.set(xlabel="step", ylabel=score, title=f"{score} of whole images")
    for number, (name, value) in enumerate(baselines.items()):
        left.axhline(value, label=name, linestyle=":", color=f"C{2 + number}")
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:.3g}")
    left.yaxis.set_minor_formatter("{x:.3g}")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper")
    return figure


def plot_predictions(model: UpscalingModel, pairs: Pairs) -> Figure:
    """Dataset, Label, Predicted, a row a image, as the study showed its results."""
    some = pairs.spread(ROWS)
    figure = Figure(figsize=(6, 2.1 * len(some)), layout="constrained")
    grid = figure.subplots(len(some), 3, squeeze=False)
    inputs, labels = next(some.batches(ROWS))
    columns = {"Dataset": inputs, "Label": labels, "Predicted": upscale(model, inputs)}
    for axes_row, number in zip(grid, range(len(some)), strict=True):
        for axes, (title, images) in zip(axes_row, columns.items(), strict=True):
            axes.imshow(images[number, ..., 0], **SHOWN)
            axes.set_title(title if number == 0 else "", fontsize=9)
            axes.axis("off")
    return figure


def plot_comparison(methods: Mapping[str, UpscalingModel], pairs: Pairs | WholePhotos, recompose: str) -> Figure:
    """A few images by every method next to the label, with the busiest part zoomed below each."""
    some = pairs.spread(3)
    columns = len(methods) + 1
    figure = Figure(figsize=(2 * columns, 4.2 * len(some)), layout="constrained")
    grid = figure.subplots(2 * len(some), columns, squeeze=False)
    for number, (inputs, labels) in enumerate(some.batches(1)):
        label = labels[0, ..., 0]
        place = _find_detailed_crop(label)
        shown = {name: upscale(method, inputs, recompose)[0, ..., 0] for name, method in methods.items()}
        for column, (name, image) in enumerate((shown | {"label": label}).items()):
            whole, inset = grid[2 * number, column], grid[2 * number + 1, column]
            error = np.abs(image - label).mean()
            whole.imshow(image, **SHOWN)
            title = fill(name, TITLE_WIDTH)
            whole.set_title(name if name == "label" else f"{title}\nmae {error:.4f}", fontsize=8)
            inset.imshow(image[place], **SHOWN)
            whole.axis("off")
            inset.axis("off")
    return figure


def plot_sheet(methods: Mapping[str, UpscalingModel], pairs: Pairs) -> Figure:
    """The busiest crop of the busiest images, such as text: input, one method after the other, label.

    Args:
        methods: networks by what they are called, in the order they are shown in.
        pairs: of which the few with the sharpest edges are shown, one a photo.
    """
    some = _select_detailed_pairs(pairs.one_a_photo().spread(SHEET_CANDIDATES), SHEET_IMAGES)
    inputs, labels = next(some.batches(SHEET_IMAGES))
    large = {name: upscale(method, inputs) for name, method in methods.items()}
    figure = Figure(figsize=(1.9 * (len(large) + 2), 2.2 * len(some)), layout="constrained")
    grid = figure.subplots(len(some), len(large) + 2, squeeze=False)
    for number, axes_row in enumerate(grid):
        place = _find_detailed_crop(labels[number, ..., 0])
        y, x, side = (
            int(part / pairs.scale) for part in (place[0].start, place[1].start, place[0].stop - place[0].start)
        )
        crops = {"input": inputs[number, y:, x:, 0][:side, :side]}
        for name, images in large.items():
            error = np.abs(images[number] - labels[number]).mean()
            crops[f"{fill(name, TITLE_WIDTH)}\nmae {error:.4f}"] = images[number, ..., 0][place]
        for axes, (title, crop) in zip(
            axes_row, (crops | {"label": labels[number, ..., 0][place]}).items(), strict=True
        ):
            axes.imshow(crop, **SHOWN)
            axes.set_title(title, fontsize=8)
            axes.axis("off")
    return figure


def _select_detailed_pairs(pairs: Pairs, count: int) -> Pairs:
    """The pairs whose busiest crops have the sharpest edges."""
    sharpness = []
    for _, labels in pairs.batches(16):
        for label in labels[..., 0]:
            crop = label[_find_detailed_crop(label)]
            sharpness.append(np.square(np.diff(crop, axis=0)).sum() + np.square(np.diff(crop, axis=1)).sum())
    chosen = np.argsort(sharpness)[::-1][:count]
    inputs, labels = zip(*(pairs[index] for index in chosen), strict=True)
    return Pairs([pairs.rows[index] for index in chosen], list(inputs), list(labels), pairs.scale)


def _find_detailed_crop(label: np.ndarray) -> tuple[slice, slice]:
    """The square, a third of the shorter side wide, in which neighbouring pixels of an image differ most."""
    side = max(1, min(label.shape) // 3)
    change = np.abs(np.diff(label, axis=0, append=label[-1:])) + np.abs(np.diff(label, axis=1, append=label[:, -1:]))
    rows, columns = (sorted({*range(0, end - side, max(1, side // 2)), end - side}) for end in label.shape)
    y, x = max(((y, x) for y in rows for x in columns), key=lambda at: change[at[0] :, at[1] :][:side, :side].sum())
    return slice(y, y + side), slice(x, x + side)
