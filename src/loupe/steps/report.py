"""The claims judged by the runs, as pages: from MLflow's store, or from a table that an earlier report wrote."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from loupe.cli.progress import print_line
from loupe.config.steps import Report
from loupe.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from loupe.report.contents import Picture
    from loupe.upscalers.tiling import UpscalingModel

TABLE = "results.parquet"
# Images that need models; a report from a table takes them from the folder beside it.
CAPTIONS = {
    "comparison": "The best network beside the baselines, on test photos; below each, its busiest part.",
    "story": "The study's networks one after the other, on the busiest crops of test photos; mae of whole images. "
    "Plain: no hidden layer. Dropout: half of the units. Tanh: weights of one fixed spread. Xavier: by the layers' "
    "widths. Final: the best network of all.",
}
# The story's networks, in order: what each is called, and the settings by which its run is found.
ROLES: dict[str, dict[str, str]] = {
    "plain": {"hidden": "none", "keep_prob": "1.0"},
    "dropout": {"keep_prob": "0.5"},
    "tanh": {"activation": "tanh", "keep_prob": "1.0", "initializer": "gaussian"},
    "Xavier": {"activation": "tanh", "keep_prob": "1.0", "initializer": "xavier"},
}
STORY = "story"  # the sweep whose runs are taken for it, where it has them


def run(settings: Report) -> Path:
    """Read, judge, write; returns the HTML page's path."""
    from loupe.report import assembly, page, readme, results

    table = _table(settings)
    here = assembly.on_dataset(table, settings.dataset)
    cases = _cases(settings, here)
    out = Path(settings.out)
    (out / page.IMAGES).mkdir(parents=True, exist_ok=True)
    made = _kept(settings) if settings.from_ else _made(settings, here)
    report = assembly.gathered(table, here, cases, made)
    if settings.readme:
        readme.write_readme(Path(settings.readme), readme.readme_tables(report))
    results.write(table, out / TABLE)
    (out / "report.html").write_text(page.html(report))
    (out / "report.md").write_text(page.markdown(report))
    for image in report.images:
        (out / page.IMAGES / f"{image.name}.png").write_bytes(image.png)
    if not settings.from_:
        _log(settings, out / "report.html", report)
    print_line(report.summary, settings.quiet)
    print_line(f"look at: {out / 'report.html'}", settings.quiet)
    return out / "report.html"


def _table(settings: Report) -> "pd.DataFrame":
    """The table of runs; from the store, as it will be read again."""
    import tempfile

    from loupe.report import results

    if settings.from_:
        return results.read(Path(settings.from_))
    from loupe.tracking import runs, trials

    runs.tag_project_run()
    table = trials.load_results()
    if table.empty:
        raise UsageError(
            "there is no finished run in the store yet; first: loupe sweep --sweep sweeps/activation.toml"
        )
    with tempfile.TemporaryDirectory() as folder:
        results.write(table, Path(folder) / TABLE)
        return results.read(Path(folder) / TABLE)


def _cases(settings: Report, here: "pd.DataFrame") -> list[Any]:
    """The claims of all sweep files with the runs that each is judged by."""
    from loupe.report.assembly import Case
    from loupe.search import arms, sweep_loader

    folder = Path(settings.sweeps)
    files = sorted(folder.glob("*.toml"))
    if not files:
        raise UsageError(f"sweeps: must be a folder with sweep files, got {settings.sweeps!r}")
    cases = []
    for file in files:
        sweep = sweep_loader.read(file)
        if sweep.claims:
            found = arms.of_sweep(sweep, here)
            cases += [Case(file.as_posix(), claim, found) for claim in sweep.claims]
    return cases


def _kept(settings: Report) -> dict[str, "Picture"]:
    """The images that an earlier report wrote beside its table."""
    from loupe.report.contents import Picture
    from loupe.report.page import IMAGES

    folder = Path(str(settings.from_)).parent / IMAGES
    files = {name: folder / f"{name}.png" for name in CAPTIONS}
    return {name: Picture(name, file.read_bytes(), CAPTIONS[name]) for name, file in files.items() if file.is_file()}


def _made(settings: Report, here: "pd.DataFrame") -> dict[str, "Picture"]:
    """The images drawn anew by the kept networks, on the test photos of their dataset."""
    from loupe.config.fields import parse_scale
    from loupe.data import preparation
    from loupe.data.dataset import Dataset
    from loupe.evaluation import figures, scoring
    from loupe.report import assembly
    from loupe.report.charts import png
    from loupe.report.contents import Picture
    from loupe.upscalers import ridge

    best = assembly.best_run(here)
    place = None if best is None else preparation.prepared_place(settings, best["dataset"])
    if place is None:
        why = "no run has a kept model" if best is None else f"{best['dataset']} is not in {settings.data_dir}"
        print_line(f"without the images that need models: {why}", settings.quiet)
        return {}
    dataset, scale = Dataset(place), parse_scale(best["settings.scale"])
    pairs = dataset.pairs("test", scale)
    final = _upscaler(best)
    others = scoring.build_baselines(pairs, ridge.load_or_fit(dataset, scale), dataset.settings["luminance"])
    told = {name: _upscaler(row) for name, row in _storied(here).items()} | {"final": final}
    drawn = {
        "comparison": figures.plot_comparison(others | {"the best network": final}, pairs, "concatenate"),
        "story": figures.plot_sheet(told, pairs),
    }
    return {name: Picture(name, png(figure), CAPTIONS[name]) for name, figure in drawn.items()}


def _storied(here: "pd.DataFrame") -> dict[str, "pd.Series"]:
    """For each role of the story, the best run that has it and a kept model; those of the story's sweep first."""
    from loupe.report import assembly

    board = assembly.leaderboard(here)
    kept = board[board["metrics.test/mae"].notna()]
    kept = kept.assign(elsewhere=kept["sweep"] != STORY)
    kept = kept.sort_values(["elsewhere", "metrics.val/best_mae", "run_id"])
    found = {}
    for role, wanted in ROLES.items():
        there = kept[kept["settings.network"] == "perceptron"]
        for field, value in wanted.items():
            column = f"settings.{field}"
            there = there[there[column] == value] if column in there else there[:0]
        if "hidden" not in wanted and len(there):
            there = there[there["settings.hidden"] != "none"]
        if len(there):
            found[role] = there.iloc[0]
    return found


def _upscaler(row: "pd.Series") -> "UpscalingModel":
    """The kept network of a run."""
    from loupe.models.builder import KerasUpscaler
    from loupe.tracking import models

    run_id = row["run_id"]
    return KerasUpscaler(
        models.load_keras(models.ModelReference(f"{row['name']} ({run_id})", f"runs:/{run_id}/model", run_id))
    )


def _log(settings: Report, html: Path, report: Any) -> None:
    """Keep the page with a run of its own."""
    from loupe.tracking import records, runs

    with runs.step_run(settings, f"report on {report.dataset}"):
        records.log_file(html)
        records.log_metrics(
            {f"claims/{name.replace(' ', '_')}": float(count) for name, count in report.counts.items()}
        )


if __name__ == "__main__":
    from loupe.cli.main import entry

    entry("report")
