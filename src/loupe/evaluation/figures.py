"""Draws figures of images, scores and learning curves."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from loupe.data.pairs import Pairs
from loupe.data.whole_photos import WholePhotos
from loupe.errors import LoupeError, UsageError
from loupe.imaging.atomic import write_atomically
from loupe.imaging.conversion import from_floats, to_floats
from loupe.imaging.jpeg_quality import MAX_QUALITY
from loupe.upscalers.baselines import build_classical, get_references
from loupe.upscalers.tiling import UpscalingModel, upscale

PREDICTION_ROWS = 6  # number of images in `plot_predictions`
DPI = 120
TITLE_WIDTH = 22  # in characters
RENDERED_ROWS = 3  # number of images in `render_predictions`
SHEET_ROWS = 4  # number of photos in `plot_sheet`
SHEET_CANDIDATES = 500  # number of photos from which `plot_sheet` selects


def validate_format(sheet: Path) -> None:
    """Raise UsageError if Matplotlib cannot write a figure with the extension of `sheet`."""
    # pgf needs LaTeX; raw and rgba are pixels without a size.
    extensions = FigureCanvasBase.get_supported_filetypes().keys() - {"pgf", "raw", "rgba"}
    if sheet.suffix and sheet.suffix[1:].lower() not in extensions:
        raise UsageError(f"sheet: must end in one of {', '.join(sorted(extensions))}, got {str(sheet)!r}")


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure to a file atomically, as PNG if the file has no extension; raise LoupeError if this fails."""
    try:
        with write_atomically(file) as partial:
            figure.savefig(partial, dpi=DPI, format=file.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise LoupeError(f"sheet: {str(file)!r} cannot be written: {error}") from None


def plot_pairs(pairs: Pairs) -> Figure:
    """Plot labels above their inputs, for up to 8 evenly spaced pairs."""
    sample = pairs.subsample(8)
    figure = Figure(figsize=(1.7 * len(sample), 3.6), layout="constrained")
    grid = figure.subplots(2, len(sample), squeeze=False)
    for column in range(len(sample)):
        small, label = sample[column]
        for axes, image, name in ((grid[0, column], label, "label"), (grid[1, column], small, "input")):
            _show(axes, image, f"{name} {image.shape[1]}x{image.shape[0]}", limits=(0, 255))
    return figure


def plot_value_distribution(pairs: Pairs) -> Figure:
    """Plot histograms of the pixel values of up to 100 inputs and labels."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    sample, values = pairs.subsample(100), to_floats(np.arange(256, dtype="uint8"))
    for index, name in enumerate(("inputs", "labels")):
        counts = sum(np.bincount(sample[number][index].ravel(), minlength=256) for number in range(len(sample)))
        mean = np.average(values, weights=counts)
        deviation = np.sqrt(np.average((values - mean) ** 2, weights=counts))
        text = f"{name}: mean {mean:.3f}, std {deviation:.3f}"
        axes.hist(values, bins=64, range=(-1, 1), weights=counts, histtype="step", density=True, label=text)
    axes.set(xlabel="luminance, -1 black, 1 white", ylabel="density", title="Distribution of pixel values")
    axes.legend()
    return figure


def plot_image_statistics(pairs: Pairs) -> Figure:
    """Plot the standard deviation of each label over its mean, for up to 300 labels."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    batches = pairs.subsample(300).batches(16)
    statistics = [(labels.mean(axis=(1, 2, 3)), labels.std(axis=(1, 2, 3))) for _, labels in batches]
    means, deviations = map(np.concatenate, zip(*statistics, strict=True))
    axes.scatter(means, deviations, s=8, alpha=0.5)
    axes.set(xlabel="mean of a label", ylabel="standard deviation of a label", title="Statistics of the labels")
    axes.set(xlim=(-1, 1), ylim=(0, 1))
    return figure


def plot_learning_curves(points: Sequence[Mapping[str, Any]], baselines: Mapping[str, float]) -> Figure:
    """Plot mae and psnr of training and validation images over the training steps.

    Args:
        points: `step` and `metrics` of each point of the curves.
        baselines: validation mae by name, plotted as horizontal lines.
    """
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


def plot_psnr(psnr: pd.DataFrame) -> Figure:
    """Plot the PSNR of every method over the JPEG quality; `psnr` is the result of `qualities.compute_psnr`."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(matplotlib.style.library["tableau-colorblind10"]["axes.prop_cycle"])
    for (name, values), marker in zip(psnr.items(), cycle("osD^vP*X<>"), strict=False):
        axes.plot(psnr.index, values, label=name, marker=marker)
    axes.set(xlabel=f"JPEG quality of the inputs ({MAX_QUALITY}: not compressed)", ylabel="PSNR, dB")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    return figure


def plot_predictions(model: UpscalingModel, pairs: Pairs) -> Figure:
    """Plot the input, the label and the prediction of up to PREDICTION_ROWS pairs, as in the 2016 study."""
    sample = pairs.subsample(PREDICTION_ROWS)
    figure = Figure(figsize=(6, 2.1 * len(sample)), layout="constrained")
    grid = figure.subplots(len(sample), 3, squeeze=False)
    inputs, labels = sample.load_floats()
    columns = {"Dataset": inputs, "Label": labels, "Predicted": upscale(model, inputs)}
    for number, axes_row in enumerate(grid):
        for axes, (title, images) in zip(axes_row, columns.items(), strict=True):
            _show(axes, images[number, ..., 0], title if number == 0 else "", fontsize=9)
    return figure


def render_predictions(model: UpscalingModel, pairs: Pairs) -> np.ndarray:
    """Return one grey image, uint8, of detailed crops: upscaled input, prediction and label in each row."""
    simplest, _ = get_references(pairs.scale)
    rows = []
    for inputs, labels in pairs.subsample(RENDERED_ROWS).batches(1):
        crop = _find_detailed_crop(labels[0, ..., 0])
        columns = [upscale(build_classical(pairs.scale)[simplest], inputs), upscale(model, inputs), labels]
        rows.append(np.concatenate([image[0, ..., 0][crop] for image in columns], axis=1))
    return from_floats(np.concatenate(rows))


def plot_comparison(methods: Mapping[str, UpscalingModel], pairs: Pairs | WholePhotos, recompose: str) -> Figure:
    """For up to three images, plot the result of every method and the label, each above a detailed crop.

    The titles are the keys of `methods` and the mae of each result. `recompose` is as in `upscale`.
    """
    sample = pairs.subsample(3)
    columns = len(methods) + 1
    figure = Figure(figsize=(2 * columns, 4.2 * len(sample)), layout="constrained")
    grid = figure.subplots(2 * len(sample), columns, squeeze=False)
    for number, (inputs, labels) in enumerate(sample.batches(1)):
        label = labels[0, ..., 0]
        crop = _find_detailed_crop(label)
        images = {name: upscale(method, inputs, recompose)[0, ..., 0] for name, method in methods.items()}
        for column, (name, image) in enumerate((images | {"label": label}).items()):
            image_axes, crop_axes = grid[2 * number, column], grid[2 * number + 1, column]
            _show(image_axes, image, name if name == "label" else _format_title(name, image, label))
            _show(crop_axes, image[crop], "")
    return figure


def plot_sheet(methods: Mapping[str, UpscalingModel], pairs: Pairs, recompose: str = "concatenate") -> Figure:
    """Plot the most detailed crop of each of the SHEET_ROWS photos with the sharpest edges.

    Each row shows the input, the result of each method, and the label. The titles are the keys of `methods` and the
    mae of the whole result. `recompose` is as in `upscale`.
    """
    sample = _select_detailed_pairs(pairs.select_first_per_photo().subsample(SHEET_CANDIDATES), SHEET_ROWS)
    inputs, labels = sample.load_floats()
    results = {name: upscale(method, inputs, recompose) for name, method in methods.items()}
    figure = Figure(figsize=(1.9 * (len(results) + 2), 2.2 * len(sample)), layout="constrained")
    grid = figure.subplots(len(sample), len(results) + 2, squeeze=False)
    for number, axes_row in enumerate(grid):
        label = labels[number, ..., 0]
        rows, columns = crop = _find_detailed_crop(label)
        top, left, side = (int(value / pairs.scale) for value in (rows.start, columns.start, rows.stop - rows.start))
        images_by_title = {"input": inputs[number, top : top + side, left : left + side, 0]}
        for name, images in results.items():
            image = images[number, ..., 0]
            images_by_title[_format_title(name, image, label)] = image[crop]
        images_by_title["label"] = label[crop]
        for axes, (title, image) in zip(axes_row, images_by_title.items(), strict=True):
            _show(axes, image, title)
    return figure


def _show(axes: Any, image: np.ndarray, title: str, fontsize: int = 8, limits: tuple[int, int] = (-1, 1)) -> None:
    """Show a grey image without ticks; `limits` are the values of black and white."""
    axes.imshow(image, vmin=limits[0], vmax=limits[1], cmap="gray", interpolation="nearest")
    axes.set_title(title, fontsize=fontsize)
    axes.axis("off")


def _format_title(name: str, image: np.ndarray, label: np.ndarray) -> str:
    """Return the name of a method and the mae of its result."""
    return f"{fill(name, TITLE_WIDTH)}\nmae {np.abs(image - label).mean():.4f}"


def _select_detailed_pairs(pairs: Pairs, count: int) -> Pairs:
    """Return the `count` pairs whose most detailed crops have the sharpest edges."""
    sharpness = []
    for _, labels in pairs.batches(16):
        for label in labels[..., 0]:
            crop = label[_find_detailed_crop(label)]
            sharpness.append(np.square(np.diff(crop, axis=0)).sum() + np.square(np.diff(crop, axis=1)).sum())
    indices = np.argsort(sharpness)[::-1][:count]
    inputs, labels = zip(*(pairs[index] for index in indices), strict=True)
    return Pairs.from_images([pairs.rows[index] for index in indices], list(inputs), list(labels), pairs.scale)


def _find_detailed_crop(label: np.ndarray) -> tuple[slice, slice]:
    """Return rows and columns of the square with the largest sum of differences between neighbouring pixels.

    The side of the compared squares is a third of the label's shorter side. The step between them is half their side.
    """
    side = max(1, min(label.shape) // 3)
    change = np.abs(np.diff(label, axis=0, append=label[-1:])) + np.abs(np.diff(label, axis=1, append=label[:, -1:]))
    rows, columns = (sorted({*range(0, end - side, max(1, side // 2)), end - side}) for end in label.shape)
    y, x = max(
        ((y, x) for y in rows for x in columns),
        key=lambda corner: change[corner[0] :, corner[1] :][:side, :side].sum(),
    )
    return slice(y, y + side), slice(x, x + side)
