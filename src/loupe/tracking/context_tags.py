"""Masks the tags that MLflow adds to runs and models, such as the URL of the git remote, which may have a token."""

from mlflow.tracking.context.registry import resolve_tags

from loupe.errors import mask_secrets


def mask_tags(tags: dict[str, str]) -> dict[str, str]:
    """Mask the secrets in tags, and return only the tags that contain secrets."""
    masked = {name: mask_secrets(text) for name, text in tags.items()}
    return {name: text for name, text in masked.items() if text != tags[name]}


def list_masked_tags() -> dict[str, str]:
    """Return masked copies of the tags of MLflow that contain secrets, to replace these tags."""
    return mask_tags(resolve_tags())
