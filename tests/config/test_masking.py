"""Secrets in URLs are hidden in every text; other texts stay the same."""

import pytest

from loupe.config import parse_settings
from loupe.config.masking import mask_secrets, mask_values

SECRET = "hunter2"
TEXTS = [
    "http://u:{}@host:5000/path", "postgresql+psycopg://u:a/{}#b?c:d@e@host/db", "s3://KEY:{}@bucket/x",
    "https://{}@host/x", "postgresql://host/db?user=u&password={}", "postgresql://host/db?PGPASSWORD={}&a=1",
    "https://h/x?X-Amz-Signature={}&X-Amz-Credential={}", "https://h/x?api_key={}", "https://h/x?access_token={}",
    "https://h/x?a=1&sig={}", "host=h password='a {}' user=u", "Max retries: http://u:{}@[::1 (refused)",
]  # fmt: skip
PLAIN = [
    "models:/loupe@champion", "http://host:5000/x", "mae=0.1 key=3", "sqlite:///mlflow.db", "tcp://host:8786",
    "scale: must be 3:2, got 9:1", "password: must be set", "a photo@2x.png", "https://h/x?monkey=1",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_secrets_are_hidden(text: str) -> None:
    masked = mask_secrets(text.replace("{}", SECRET))
    assert SECRET not in masked
    assert "***" in masked
    assert mask_secrets(masked) == masked


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_stay_the_same(text: str) -> None:
    assert mask_secrets(text) == text


def test_nested_values_are_masked() -> None:
    assert mask_values({"a": ["s3://k:x@b", 1]}) == {"a": ["s3://k:***@b", 1]}


@pytest.mark.parametrize("field", ["data_dir", "source", "scheduler"])
def test_settings_hide_secrets_in_their_texts(field: str) -> None:
    settings = parse_settings("preprocess", {field: f"s3://k:{SECRET}@bucket/photos"})
    assert SECRET not in str(settings.to_texts())
    assert SECRET in str(getattr(settings, field))  # the step itself needs it
