"""Writes the notes of runs, which MLflow shows as descriptions."""

import mlflow

from loupe.config.base import RunSettings
from loupe.errors import LoupeError, describe_error, mask_secrets
from loupe.tracking import records

ERROR_TAG = "loupe.error"  # the reason why the run failed
NOTE_TAG = "mlflow.note.content"
FAILED_NOTE = "Failed:"  # start of the last paragraph in the note of a failed run


def log_note(settings: RunSettings, text: str) -> None:
    """Log a text as the note of the run, unless the user has given a note."""
    if not settings.note:
        records.log_tags({NOTE_TAG: mask_secrets(text)})


def log_table(settings: RunSettings, title: str, table: str) -> None:
    """Log a title and a table, aligned with spaces, as the note of the run, unless the user has given a note."""
    log_note(settings, f"{title}\n\n```\n{table}\n```")


def make_failure_tags(tags: dict[str, str], text: str) -> dict[str, str]:
    """Return the tags of a failed run: the reason `text`, and the note in `tags` with the reason appended."""
    note = f"{tags.get(NOTE_TAG, '')}\n\n{FAILED_NOTE} {text}".strip()
    return {ERROR_TAG: mask_secrets(text), NOTE_TAG: mask_secrets(note)}


def read_note(tags: dict[str, str]) -> str:
    """Return the note in the tags of a run, without the reason of a failure."""
    note = tags.get(NOTE_TAG, "")
    before, found, _ = note.rpartition(FAILED_NOTE)
    return before.strip() if found and ERROR_TAG in tags else note


def remove_failure_tags(run_id: str, tags: dict[str, str]) -> dict[str, str]:
    """Remove the reason of an earlier failure from the tags and the note of a run, and return the new tags."""
    if ERROR_TAG not in tags:
        return tags
    note = read_note(tags)
    mlflow.MlflowClient().delete_tag(run_id, ERROR_TAG)
    mlflow.MlflowClient().set_tag(run_id, NOTE_TAG, note)
    return {key: text for key, text in tags.items() if key != ERROR_TAG} | {NOTE_TAG: note}


def explain(error: Exception) -> str:
    """Return an error message in one line, without secrets."""
    return str(error) if isinstance(error, LoupeError) else f"{type(error).__name__}: {describe_error(error)}"
