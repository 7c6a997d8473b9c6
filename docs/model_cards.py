"""Write the model cards of the bundled networks, `model-cards.md`, with their images of failures.

    python docs/model_cards.py                # from the stored scores, model-cards.parquet, and model-cards.toml
    python docs/model_cards.py --score DATA   # also scores the networks and draws the images

The folder DATA contains the photo sets of SETS, such as `kodak24`. Networks are scored as by `loupe evaluate
--degrade jpeg`, which takes about ten minutes on one core.
"""

import argparse
import hashlib
import math
import tomllib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from PIL import Image, ImageDraw

from loupe.config import parse_settings
from loupe.config.fields import BUNDLED_SIZES, format_value
from loupe.data.pairs import add_strengths
from loupe.evaluation import metrics, protocols, qualities, scoring
from loupe.imaging.conversion import compress_jpeg, from_floats, to_floats
from loupe.imaging.jpeg_quality import compute_strength
from loupe.photos.networks import load_bundled
from loupe.upscalers import bundled
from loupe.upscalers.baselines import build_classical, get_references
from loupe.upscalers.geometry import Geometry
from loupe.upscalers.overshoot import LimitedOvershoot
from loupe.upscalers.tiling import upscale

DOCS = Path(__file__).parent
SCORES, TEXTS, CARDS = (DOCS / f"model-cards.{suffix}" for suffix in ("parquet", "toml", "md"))
CREDITS = "../" + (bundled.FOLDER / "credits.csv").relative_to(DOCS.parent).as_posix()
CLEAN = 100  # JPEG quality of inputs that are not compressed
# By name: the files in DATA, and the fields of evaluate
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "Kodak": ("kodak24", {"label_size": 510, "qualities": (CLEAN, 95, 85, 75, 50, 30, 10)}),
    "CC0": ("cc0-photos", {"label_size": 510, "qualities": (CLEAN, 75, 30)}),
    "Caltech-256": ("caltech256-subset.tar", {"label_size": 150, "qualities": (CLEAN, 75, 30), "limit": 200}),
}
BASELINES = {"input": "decoded JPEG", "nlm": "non-local means", "nearest": "nearest", "bicubic": "bicubic",
             "lanczos": "Lanczos"}  # fmt: skip
LANCZOS = Image.Resampling.LANCZOS
SIDE, MARGIN, ZOOM, GAP, TITLE = 96, 24, 2, 8, 16  # in pixels, for the images of failures


def list_networks() -> Iterator[tuple[str, str, Fraction]]:
    """Yield the name of each bundled network, such as `tiny-3x2`, with its size and scale factor."""
    for size in BUNDLED_SIZES:
        for scale in bundled.list_scales(size):
            yield bundled.find_file(size, scale).stem, size, scale


def score_networks(data: Path) -> pd.DataFrame:
    """Score the networks and the baselines on all photo sets: one row per image, JPEG quality and method."""
    tables = []
    for scale in sorted({scale for *_, scale in list_networks()}):
        methods = {name: model for name, model in build_classical(scale).items() if name in BASELINES}
        methods |= {name: load_bundled(size, own).model for name, size, own in list_networks() if own == scale}
        for name, (files, fields) in SETS.items():
            given = fields | {"photos": str(data / files), "degrade": "jpeg", "scale": scale}
            given["label_size"] -= given["label_size"] % scale.numerator
            if scale == 1:  # an input without compression equals its label
                given["qualities"] = [quality for quality in fields["qualities"] if quality != CLEAN]
            settings = parse_settings("evaluate", given)
            pairs = protocols.open_images(settings, scale, "rec601").pairs
            table = qualities.score_qualities(methods, pairs, settings.qualities, settings.recompose)
            tables.append(table.assign(set=name, scale=format_value(scale)).drop(columns="path"))
    return pd.concat(tables, ignore_index=True).astype(dict.fromkeys(metrics.SCORES, "float32"))


def draw_failures(name: str, size: str, scale: Fraction, kodak: Path) -> Image.Image:
    """Draw one row per failure of a network: the best baseline, the network, and the original, with PSNR."""
    model, baseline = load_bundled(size, scale).model, get_references(scale)[1]
    methods = {BASELINES[baseline]: build_classical(scale)[baseline]}
    methods[name] = model if scale == 1 else LimitedOvershoot(model)  # as `loupe upscale`
    failures, step = load_texts()["networks"][name]["failures"], SIDE * ZOOM + GAP
    sheet = Image.new("L", (3 * step - GAP, len(failures) * (step + TITLE) - GAP), 255)
    for row, (_, number, left, top, damage, _) in enumerate(failures):
        edges = (left - MARGIN, max(0, top - MARGIN), left + SIDE + MARGIN, top + SIDE + MARGIN)
        region = Image.open(kodak / f"{number:02}.png").convert("L").crop(edges)
        inputs = _make_input(region.resize([int(side / scale) for side in region.size], LANCZOS), damage)
        images = {title: upscale(method, inputs) for title, method in methods.items()}
        images["original"] = to_floats(np.asarray(region))[None, ..., None]
        crop = np.s_[:, top - edges[1] : top - edges[1] + SIDE, MARGIN : MARGIN + SIDE]
        for column, (title, image) in enumerate(images.items()):
            x, y = column * step, row * (step + TITLE)
            psnr = metrics.psnr(image[crop], images["original"][crop])[0]
            text = title if title == "original" else f"{title} {psnr:.1f} dB"
            ImageDraw.Draw(sheet).text((x, y), text, 0)
            pixels = from_floats(image[crop][0, ..., 0]).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
            sheet.paste(Image.fromarray(pixels), (x, y + TITLE))
    return sheet


def _make_input(image: Image.Image, damage: str) -> np.ndarray:
    """Return an image, (1, h, w, 2) with the strength of JPEG artefacts, after `quality N` or `noise N`."""
    pixels, (kind, level) = np.asarray(image), damage.split()
    quality = int(level) if kind == "quality" else CLEAN
    if kind == "noise":
        noisy = pixels + np.random.default_rng(0).normal(0, int(level), pixels.shape)
        pixels = np.rint(noisy).clip(0, 255).astype("uint8")
    values = to_floats(compress_jpeg(pixels, quality) if quality < CLEAN else pixels)
    return add_strengths(values[None], np.array([compute_strength(quality)], "float32"))


def write_cards() -> str:
    """Return the page, from the stored scores."""
    # The sums of float32 depend on the processor.
    scores, texts = pd.read_parquet(SCORES).astype(dict.fromkeys(metrics.SCORES, "float64")), load_texts()
    kodak, caltech = SETS["Kodak"][1], SETS["Caltech-256"][1]
    introduction = texts["introduction"].format(
        side=kodak["label_size"], small_side=caltech["label_size"], limit=caltech["limit"], credits=CREDITS,
        qualities=",".join(map(str, kodak["qualities"])),
    )  # fmt: skip
    parts = [introduction.lstrip()]
    for name, _, scale in list_networks():
        table = _format_table(name, scale, scores[scores["scale"] == format_value(scale)])
        parts.append("\n".join(_write_card(name, scale, texts["networks"][name], table)))
    return "\n".join(parts)


def load_texts() -> dict[str, Any]:
    """Load the typed part of the cards."""
    return tomllib.loads(TEXTS.read_text(encoding="utf-8"))


def _write_card(name: str, scale: Fraction, texts: dict[str, Any], table: list[str]) -> list[str]:
    failures = [
        f"{number}. {kind.capitalize()} (photo {photo}, {_describe_damage(damage)}): {text}"
        for number, (kind, photo, _, _, damage, text) in enumerate(texts["failures"], 1)
    ]
    columns = f"{BASELINES[get_references(scale)[1]]}, {name}, original"
    return [
        f"## {name}", "", texts["use"], "", *_describe_file(bundled.FOLDER / f"{name}.onnx"), "",
        "Training photos and their terms:", "", *(f"- {text}" for text in list_training_photos(name)), "",
        *table, "", f"![Crops of Kodak photos: {columns}](images/card-{name}.jpg)", "", *failures, "",
    ]  # fmt: skip


def _describe_damage(damage: str) -> str:
    kind, level = damage.split()
    quality = "no compression" if int(level) == CLEAN else f"JPEG quality {level}"
    return quality if kind == "quality" else f"noise with standard deviation {level} of 255"


def list_training_photos(name: str) -> list[str]:
    """Return the training photos of a network with their terms, from the note next to the weights."""
    lines = (
        (bundled.FOLDER / "LICENCE.md")
        .read_text(encoding="utf-8")
        .replace("(credits.csv)", f"({CREDITS})")
        .splitlines()
    )
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| all")]
    return [f"{photos}: {terms}" for networks, photos, terms in rows if name not in networks]


def _describe_file(file: Path) -> list[str]:
    """Describe the architecture of a network, from its ONNX file.

    All convolutions work on blocks of pixels, so that each weight of a kernel is used once per block of the result.
    """
    network = onnx.load(file)
    geometry = Geometry.from_name({entry.key: entry.value for entry in network.metadata_props}["loupe"])
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    shapes = [part.dims for part in network.graph.initializer if part.data_type in floats]
    products = sum(math.prod(shape) for shape in shapes if len(shape) > 1)
    field = geometry.q + 2 * geometry.halo
    rows = {
        "scale factor": format_value(geometry.scale),
        "weights": f"{sum(map(math.prod, shapes)):,}",
        "multiply-adds per pixel of the result": f"{products / geometry.p**2:,.0f}",
        f"receptive field of {geometry.p}x{geometry.p} result pixels": f"{field}x{field}",
        "adapts to the JPEG quality": "yes" if geometry.channels > 1 else "no",
        f"SHA-256 of `{file.name}`": f"`{hashlib.sha256(file.read_bytes()).hexdigest()}`",
    }
    return ["| property | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _format_table(name: str, scale: Fraction, scores: pd.DataFrame) -> list[str]:
    """Format the scores of a network and the baselines by photo set and JPEG quality, in Markdown."""
    reference, methods = get_references(scale)[1], [name for name in BASELINES if name in set(scores["method"])]
    titles = [*(BASELINES[method] for method in methods), name, f"mae minus mae of {BASELINES[reference]}"]
    lines = [f"| photos | trained on | n | JPEG quality | {' | '.join(titles)} |", "|---" * (4 + len(titles)) + "|"]
    sources, worse = " ".join(list_training_photos(name)), []
    for (photos, quality), rows in scores.groupby(["set", "quality"], sort=False):
        summary = scoring.summarise(rows[rows["method"].isin([*methods, name])])
        difference = summary[name]["over"][reference]
        cells = [photos, "yes" if {"CC0": CREDITS}.get(photos, photos) in sources else "no", summary[name]["photos"]]
        cells.append("none" if quality == CLEAN else quality)
        for method in (*methods, name):
            cells.append(_format_mean(summary[method]["psnr"], summary[method]["interval"]["psnr"], 2))
        lines.append(
            f"| {' | '.join(map(str, cells))} | {_format_mean(difference['mae'], difference['interval'], 4)} |"
        )
        worse += [f"{photos} {cells[3]}"] if difference["interval"][1] >= 0 else []
    found = f"The interval of the difference is not below 0 in these rows: {', '.join(worse)}."
    return [*lines, "", found if worse else "The interval of the difference is below 0 in all rows."]


def _format_mean(mean: float, interval: list[float], digits: int) -> str:
    return f"{mean:.{digits}f} ± {(interval[1] - interval[0]) / 2:.{digits}f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--score", type=Path)
    data = parser.parse_args().score
    if data:
        for network in list_networks():
            sheet = draw_failures(*network, data / SETS["Kodak"][0])
            sheet.save(DOCS / "images" / f"card-{network[0]}.jpg", quality=78)
        score_networks(data).to_parquet(SCORES)
    CARDS.write_text(write_cards(), encoding="utf-8")
