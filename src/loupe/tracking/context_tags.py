"""Masks secrets in the tags that MLflow adds to runs and models, such as a git remote with a token."""

from mlflow.tracking.context.registry import resolve_tags

from loupe.errors import mask_secrets


def mask_tags(tags: dict[str, str]) -> dict[str, str]:
    """Return masked copies of the tags that contain secrets."""
    masked = {name: mask_secrets(text) for name, text in tags.items()}
    return {name: text for name, text in masked.items() if text != tags[name]}


def list_masked_tags() -> dict[str, str]:
    """Return masked copies of MLflow's tags that contain secrets."""
    return mask_tags(resolve_tags())
