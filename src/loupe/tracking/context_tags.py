"""The tags that MLflow itself adds to runs and models, such as the URL of the git remote, which may have a token."""

from mlflow.tracking.context.registry import resolve_tags

from loupe.errors import mask_secrets


def mask_tags(tags: dict[str, str]) -> dict[str, str]:
    """Return the tags that contain secrets, masked."""
    masked = {name: mask_secrets(text) for name, text in tags.items()}
    return {name: text for name, text in masked.items() if text != tags[name]}


def list_masked_tags() -> dict[str, str]:
    """Return the tags of MLflow that contain secrets, masked, to replace its own."""
    return mask_tags(resolve_tags())
