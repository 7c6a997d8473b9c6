"""Checks the claims of the sweep files against the runs, and writes the report."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.cli.progress import print_line
from loupe.config.checkout import find_in_checkout
from loupe.config.steps import Report
from loupe.errors import LoupeError, UsageError
from loupe.imaging.atomic import write_file

if TYPE_CHECKING:
    import pandas as pd

    from loupe.report.assembly import ClaimRuns
    from loupe.report.contents import ReportContents, ReportImage
    from loupe.upscalers.tiling import UpscalingModel

TABLE_FILE = "results.parquet"
# Captions of the images that show results of networks. Only an HTML page that is made from runs in MLflow has them.
CAPTIONS = {
    "comparison": "The best network and the baselines on test photos. Below each image is its most detailed region.",
    "story": "The networks of the study on the most detailed regions of test photos, with the mae of whole images. "
    "Plain: no hidden layer. Dropout: drops half of the units. Tanh: tanh with Gaussian initialisation. Xavier: "
    "tanh with Xavier initialisation. Final: the best network.",
}
# Settings that select the networks of the image `story`
STORY_NETWORKS: dict[str, dict[str, str]] = {
    "plain": {"hidden": "none", "keep_prob": "1.0"},
    "dropout": {"keep_prob": "0.5"},
    "tanh": {"activation": "tanh", "keep_prob": "1.0", "initializer": "gaussian"},
    "Xavier": {"activation": "tanh", "keep_prob": "1.0", "initializer": "xavier"},
}
STORY_SWEEP = "story"  # the image `story` prefers the networks of this sweep


def run(settings: Report) -> Path:
    """Write the report and return the path of the HTML page."""
    from loupe.report import assembly, page, results

    _validate_out(settings.out)
    table = _read_table(settings)
    rows = assembly.select_dataset(table, settings.dataset)
    claims = _read_claims(settings, table if settings.dataset is None else rows)
    out = Path(settings.out)
    images = () if settings.from_ else _draw_images(settings, rows)
    report = assembly.build_report(table, rows, claims, images)
    try:
        (out / page.IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
        results.write(table, out / TABLE_FILE)
        for image in report.figures:
            write_file(out / page.IMAGE_FOLDER / f"{image.name}.png", image.png)
        write_file(out / "report.html", page.render_html(report))
        write_file(out / "report.md", page.render_markdown(report))
    except OSError as error:
        raise LoupeError(f"out: {settings.out!r} cannot be written: {error.strerror or error}") from None
    if not settings.from_:
        _log_report(settings, out / "report.html", report)
    print_line(report.summary, settings.quiet)
    print_line(f"open: {out / 'report.html'}", settings.quiet)
    return out / "report.html"


def _validate_out(out: str) -> None:
    existing = next(path for path in (Path(out), *Path(out).parents) if os.path.lexists(path))
    if not out or not existing.is_dir():
        raise UsageError(f"out: must be a folder, got {out!r}")


def _read_table(settings: Report) -> "pd.DataFrame":
    """Read the table of runs from a file, or from MLflow."""
    import tempfile

    from loupe.report import results

    if settings.from_:
        return results.read(Path(settings.from_))
    from loupe.tracking import project_run, run_table

    project_run.begin_step(settings.quiet)
    table = run_table.load_run_table()
    if table.empty:
        raise UsageError(
            "report: must have finished runs, got none in MLflow; to create runs: loupe sweep sweeps/activation.toml"
        )
    # Storing can change the table slightly. Use the stored table, so that `--from` writes the same report.
    with tempfile.TemporaryDirectory() as folder:
        results.write(table, Path(folder) / TABLE_FILE)
        return results.read(Path(folder) / TABLE_FILE)


def _read_claims(settings: Report, rows: "pd.DataFrame") -> "list[ClaimRuns]":
    """Read the claims of all sweep files, with their runs."""
    from loupe.report.assembly import ClaimRuns
    from loupe.search import arms, sweep_loader

    files = sorted(file for file in find_in_checkout(settings.sweeps).glob("*.toml") if file.is_file())
    if not files:
        raise UsageError(f"sweeps: must be a folder with sweep files, got {settings.sweeps!r}")
    claims = []
    for file in files:
        sweep = sweep_loader.load_sweep(file)
        if sweep.claims:
            table = arms.find_runs(sweep, rows)
            name = (Path(settings.sweeps) / file.name).as_posix()
            claims += [ClaimRuns(name, claim, table) for claim in sweep.claims]
    return claims


def _draw_images(settings: Report, rows: "pd.DataFrame") -> "tuple[ReportImage, ...]":
    """Draw results of stored networks on test photos; print the reason and return () if that is impossible."""
    from loupe.data import preparation
    from loupe.report import assembly

    best = assembly.find_best_run(rows)
    location = None if best is None else preparation.find_dataset(settings.data_dir, best["dataset"])
    if location is None:
        reason = "no run has test scores" if best is None else f"{best['dataset']} is not in {settings.data_dir}"
    else:
        try:
            return _draw_networks(best, rows, location)
        except LoupeError as error:  # such as a model that was deleted
            reason = str(error)
    print_line(f"the report has no images of networks because {reason}", settings.quiet)
    return ()


def _draw_networks(best: "pd.Series", rows: "pd.DataFrame", location: str) -> "tuple[ReportImage, ...]":
    """Draw the images `comparison` (the network of the run `best`, and baselines) and `story` (see CAPTIONS)."""
    from loupe.config.fields import parse_scale
    from loupe.data.dataset import Dataset
    from loupe.evaluation import figures, scoring
    from loupe.report.charts import encode_png
    from loupe.report.contents import ReportImage
    from loupe.upscalers import ridge

    dataset, scale = Dataset(location), parse_scale(best["settings.scale"])
    pairs = dataset.load_pairs("test", scale)
    final = _load_network(best)
    methods = scoring.build_baselines(pairs, ridge.load_or_fit(dataset, scale), dataset.settings["luminance"])
    networks = {name: _load_network(row) for name, row in _find_story_runs(rows).items()} | {"final": final}
    drawings = {
        "comparison": figures.plot_comparison(methods | {"the best network": final}, pairs, "concatenate"),
        "story": figures.plot_sheet(networks, pairs),
    }
    dataset.finish_verification()
    return tuple(ReportImage(name, encode_png(figure), CAPTIONS[name]) for name, figure in drawings.items())


def _find_story_runs(rows: "pd.DataFrame") -> "dict[str, pd.Series]":
    """Find the run with the lowest validation mae for each network of the image `story`.

    Runs of the sweep STORY_SWEEP are preferred to other runs. Networks without a run with test scores are omitted.
    """
    from loupe.report import assembly

    ranking = assembly.rank_runs(rows)
    ranking = ranking[ranking["metrics.test/mae"].notna() & (ranking["settings.network"] == "perceptron")]
    ranking = ranking.assign(is_of_other_sweep=ranking["sweep"] != STORY_SWEEP)
    ranking = ranking.sort_values(["is_of_other_sweep", "metrics.val/best_mae", "run_id"])
    runs = {}
    for name, values in STORY_NETWORKS.items():
        matches = ranking
        for field, value in values.items():
            column = f"settings.{field}"
            matches = matches[matches[column] == value] if column in matches else matches[:0]
        if "hidden" not in values and len(matches):
            matches = matches[matches["settings.hidden"] != "none"]
        if len(matches):
            runs[name] = matches.iloc[0]
    return runs


def _load_network(row: "pd.Series") -> "UpscalingModel":
    from loupe.models.builder import KerasUpscaler
    from loupe.tracking import models

    run_id = row["run_id"]
    return KerasUpscaler(models.load_keras(models.ModelReference.from_run(run_id, f"{row['name']} ({run_id})")))


def _log_report(settings: Report, html: Path, report: "ReportContents") -> None:
    """Log the page and the number of claims per outcome."""
    from loupe.tracking import records, runs

    with runs.open_step_run(settings, f"report on {', '.join(report.datasets)}"):
        records.log_file(html)
        counts = {f"claims/{name.replace(' ', '_')}": float(count) for name, count in report.counts.items()}
        records.log_metrics(counts)
