"""Registers a model, or makes a registered version the champion."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loupe.cli.progress import print_line
from loupe.config.fields import format_value
from loupe.config.steps import Register

if TYPE_CHECKING:
    from loupe.tracking.candidates import Candidate
    from loupe.tracking.gate import GateResult
    from loupe.upscalers.geometry import Geometry

LICENCES = {
    "sample": "photographs bundled with scikit-learn and scikit-image, under the terms of their README files",
    "caltech256": "Caltech-256 (Griffin, Holub, Perona; CaltechDATA nyy15-4j048), CC BY 4.0",
}


@dataclass(frozen=True)
class Registration:
    """The result of the step `register`.

    Args:
        name: the name of the registered model.
        version: the number of the version; "" after a rollback to the bundled network.
        is_champion: whether the version is the champion now.
        reason: why the version is the champion, or why not.
    """

    name: str
    version: str
    is_champion: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.uri}: {self.status}: {self.reason}"

    @property
    def uri(self) -> str:
        """The URI of the version; after a rollback to the bundled network, that of the registered model."""
        return f"models:/{self.name}{'/' if self.version else ''}{self.version}"

    @property
    def status(self) -> str:
        """`champion`, `not champion` or `no champion`."""
        return "champion" if self.is_champion else "not champion" if self.version else "no champion"


def run(settings: Register) -> Registration:
    """Register a model with its ONNX file; make it champion if it is better than the champion (see `_judge`).

    With `rollback` or `version`, make the previous champion or this version the champion instead.

    Raises:
        UsageError: the model cannot be found (see `find_candidate`) or loaded; the gate dataset, on which it is
            compared with the champion, cannot be used (see `gate.open_gate`), or has no photo that neither model had
            for training or validation; or the version or the previous champion does not exist.
    """
    from loupe.tracking import project_run

    project_run.begin_step(settings.quiet)
    result = _move_champion(settings) if settings.rollback or settings.version else _register(settings)
    print_line(str(result), settings.quiet)
    return result


def _register(settings: Register) -> Registration:
    from loupe.models.builder import KerasUpscaler
    from loupe.tracking import champions, dataset_inputs, gate, models, records, registration, run_notes, runs
    from loupe.tracking.candidates import find_candidate

    candidate = find_candidate(settings)
    model = models.load_keras(candidate.reference)
    upscaler, champion = KerasUpscaler(model), models.get_champion(candidate.scale)
    dataset, gate_tags = gate.open_gate(settings, candidate, upscaler.geometry.luminance)
    with runs.open_step_run(settings, f"register {candidate.name}"), tempfile.TemporaryDirectory() as folder:
        records.log_model_inputs([candidate.reference.model_id])
        dataset_inputs.log_dataset(dataset, "gate")
        records.log_tags({"loupe.scale": format_value(candidate.scale)})
        result = gate.compare_with_champion(upscaler, candidate, champion, dataset, settings)
        _, difference = registration.export_onnx(model, candidate.reference, Path(folder) / "model.onnx")
        description = _describe_version(candidate, upscaler.geometry, difference, folder)
        tags = {"loupe.digest": candidate.dataset.digest} if candidate.dataset else {}
        version = registration.register_model(candidate.reference, candidate.scale, description, tags)
        was_champion = champion is not None and str(champion.version) == str(version.version)
        if not was_champion:
            registration.tag_version(version, {models.EVIDENCE_TAG: result.reason})
        if settings.gate or (result.interval and not candidate.is_smoke):
            gate.record_gate(candidate.scale, gate_tags)
        reason, is_accepted = _judge(candidate, result, version, was_champion)
        if is_accepted:
            photo_uri = champions.promote(candidate.scale, version, result.reason)
            records.log_tags({"loupe.photo": photo_uri})
        registered = Registration(version.name, str(version.version), was_champion or is_accepted, reason)
        records.log_tags({"loupe.version": registered.uri, models.EVIDENCE_TAG: result.reason})
        records.log_metrics(result.metrics)
        run_notes.log_note(settings, str(registered))
    return registered


def _judge(candidate: "Candidate", result: "GateResult", version: Any, was_champion: bool) -> tuple[str, bool]:
    """Decide whether the version becomes champion; return the reason and the decision."""
    if was_champion:
        return "this model is already the champion", False
    if not result.is_better:
        return result.reason, False
    if candidate.is_smoke:
        return (
            f"{result.reason}; a model of a short test (--smoke) becomes champion only by `register --version`",
            False,
        )
    if candidate.dataset is None:
        command = f"loupe register --scale {format_value(candidate.scale)} --version {version.version}"
        return f"{result.reason}; its training photos are unknown; `{command}` makes it the champion", False
    return result.reason, True


def _move_champion(settings: Register) -> Registration:
    """Make the previous champion or a given version the champion.

    Above the scale factor 1:1, also update `loupe-photo`, the registered model that upscales image files. After a
    rollback to the bundled network, the registered model of the scale factor has no champion.
    """
    from loupe.tracking import champions, models, records, runs

    scale, name = settings.scale, models.REGISTERED_NAMES[settings.scale]
    if settings.rollback:
        version, reason = champions.find_previous_champion(scale), "rolled back"
    else:
        version = champions.get_version(scale, str(settings.version))
        reason = "made champion by `loupe register --version`"
    evidence = version.tags.get(models.EVIDENCE_TAG, "") if version else "upscale uses the bundled network"
    # If `--version` has already made this version the champion, its stored evidence begins with this reason.
    evidence = evidence.removeprefix(reason).removeprefix("; ")
    reason += f"; {evidence}" if evidence else ""
    moved = Registration(name, str(version.version) if version else "", version is not None, reason)
    with runs.open_step_run(settings, f"register {name} {'rollback' if settings.rollback else settings.version}"):
        if settings.rollback:
            photo_uri = champions.move_champion(scale, version)
        else:
            photo_uri = champions.promote(scale, version, reason)
        records.log_tags({"loupe.photo": photo_uri, "loupe.version": moved.uri})
    return moved


def _describe_version(candidate: "Candidate", geometry: "Geometry", difference: float, folder: str) -> str:
    """Return a short model card in Markdown.

    `difference` is the largest difference between the results of Keras and ONNX. `folder` is for temporary files.
    """
    from loupe.tracking import models, registration

    data, licence = "unknown photos", "unknown"
    if candidate.dataset:
        data = f"the dataset {candidate.dataset.folder.name} (digest {candidate.dataset.digest})"
        licence = _describe_licences(candidate.dataset.settings["source"])
    file = models.download_artifact(candidate.reference.run_id, models.TEST_SUMMARY, folder)
    scale = format_value(candidate.scale)
    task = "restoring grey photos" if candidate.scale == 1 else f"upscaling grey photos by {scale}"
    sides = f"sides multiples of {geometry.q}, at least {geometry.min_side}"
    return "\n\n".join([
        f"{candidate.name}, trained on {data}. Licence of the photos: {licence}.",
        f"**Use**: {task} for people to look at. Not for evidence, diagnosis or measurement: details of a "
        "result can be wrong. Not for screenshots and drawings, unless the dataset contains them.",
        f"**Test scores**: {registration.describe_scores(file, candidate.scale)}",
        f"**Input**: images (n, h, w, {geometry.channels}), float32 in [-1, 1], {sides}. The results of Keras "
        f"and of the ONNX file differ by at most {difference:.1e}.",
    ])  # fmt: skip


def _describe_licences(sources: str) -> str:
    return "; ".join(LICENCES.get(name, f"{name}: the terms of that source") for name in sources.split(","))
