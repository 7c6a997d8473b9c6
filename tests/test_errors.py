import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.cli.progress import print_error
from loupe.config import parse_settings
from loupe.config.fields import LONGEST_QUOTE
from loupe.data import sources, storage
from loupe.errors import (
    LONGEST_DESCRIPTION,
    LoupeError,
    UsageError,
    describe_error,
    is_masked,
    mask_secrets,
    mask_values,
)
from loupe.search.worker_job import WorkerJob

SECRET = "s3cr-t"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://u:s3cr-t@host:5000/a", "http://***@host:5000/a"),
        ("https://s3cr-t@github.com/a/b.git", "https://***@github.com/a/b.git"),
        ("git+https://s3cr-t:x-oauth-basic@host/a", "git+https://***@host/a"),
        ("http://me@mail.org:s3cr-t@host", "http://***@host"),
        ("http:/u:s3cr-t@host", "http:/***@host"),
        ("postgresql+psycopg://loupe:s3cr-t@host/db", "postgresql+psycopg://loupe:***@host/db"),
        ("tls://u:s3cr-t@[::1]:8786", "tls://u:***@[::1]:8786"),
        ("s3://s3cr-t:s3cr-t@bucket/a", "s3://***@bucket/a"),
        ("simplecache::s3://k:s3cr-t@bucket/a", "simplecache::s3://***@bucket/a"),
        ("http://plain/a,s3://k:s3cr-t@bucket/a", "http://plain/a,s3://***@bucket/a"),
        ("postgresql://h/db?user=u&password=s3cr-t&x=1", "postgresql://h/db?user=u&password=***&x=1"),
        ("'http://h/a?PWD=s3cr-t' cannot be opened", "'http://h/a?PWD=***' cannot be opened"),
        ("http://h/a?sv=1&sig=s3cr-t", "http://h/a?sv=1&sig=***"),
        ("https://h/a?X-Amz-Credential=s3cr-t&X-Amz-Date=s3cr-t", "https://h/a?X-Amz-Credential=***&X-Amz-Date=***"),
        ("https://h/a?AWSAccessKeyId=s3cr-t;api_key=s3cr-t", "https://h/a?AWSAccessKeyId=***"),
        ("https://h/a#access_token=s3cr-t", "https://h/a#access_token=***"),
        ("host=h password=s3cr-t dbname=d", "host=h password=*** dbname=d"),
        ("host=h password='a s3cr-t' user=u", "host=h password=*** user=u"),
        ("s3://s3cr-t@bucket/a", "s3://***@bucket/a"),
        ("http://h/a?pass=s3cr-t&auth=s3cr-t", "http://h/a?pass=***&auth=***"),
        ("http://h/a?password='s3cr-t#s3cr-t&x=1", "http://h/a?password=***&x=1"),
        ("https://h/a?pw=s3cr-t", "https://h/a?pw=***"),
        ("https://h/a?auth[token]=s3cr-t&jwt=s3cr-t", "https://h/a?auth[token]=***&jwt=***"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dsa%3BPWD%3Ds3cr-t", "mssql+pyodbc:///?odbc_connect=***"),
        ("https://h/a?AccountKey=s3cr-t==", "https://h/a?AccountKey=***"),
        ("postgresql://u:a/s3cr-t#b?c:d@e@host/db", "postgresql://u:***@host/db"),
        ("Max retries: http://u:s3cr-t@[::1 (refused)", "Max retries: http://***@[::1 (refused)"),
    ],
)
def test_secrets_are_masked(text, masked):
    assert mask_secrets(text) == masked
    assert mask_secrets(masked) == masked
    assert is_masked(masked) == ("://" in text)


@pytest.mark.parametrize(
    "text",
    [
        "models:/loupe@champion", "http://localhost:5000/#/experiments/1/runs/2", "s3://bucket/photo@2x.png",
        "postgresql://loupe@host/db", "sqlite:////a/b.db?mode=ro", "git@github.com:a/b.git", "a:b@c.jpg",
        "file:///a/b:c@d", "https://h/a?author=me&page=2", "seed=1, activation=relu", "photo.jpg: must be an image",
        "token: must be 'a'", "keys: 'a', 3", "a bearer of news", "basic networks", '{"label_size": "48"}',
        "x-axis: 'a'",
    ],
)  # fmt: skip
def test_other_texts_are_unchanged(text):
    assert mask_secrets(text) == text
    assert not is_masked(text)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("{'user': 'u', 'password': 's3cr-t'}", "{'user': 'u', 'password': '***'}"),
        ('{"token": "a \\"s3cr-t", "seed": 3}', '{"token": "***", "seed": 3}'),
        ("api_key = 's3cr-t' # a", "api_key = '***' # a"),
        ("SharedAccessKey=s3cr-t", "SharedAccessKey=***"),
        ("Authorization: Basic s3cr-t== in 3 s", "Authorization: *** in 3 s"),
        ("{'Authorization': 'Bearer s3cr-t'}", "{'Authorization': '***'}"),
        ("X-Api-Key: s3cr-t", "X-Api-Key: ***"),
        ("invalid bearer s3cr-t", "invalid bearer ***"),
        ("denied for Basic dTpzM2NyLXQ=: a", "denied for Basic ***: a"),
    ],
)
def test_secrets_in_messages_of_servers_are_masked(text, masked):
    assert mask_secrets(text) == masked
    assert mask_secrets(masked) == masked


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY"])
def test_values_of_secret_variables_are_masked_in_errors(name, monkeypatch, capsys):
    monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:a b@host")
    print_error(f"refused {SECRET}")
    assert capsys.readouterr().err == "refused ***\n"
    assert describe_error(ValueError(f"refused {SECRET}")) == "refused ***"
    assert str(LoupeError(f"refused {SECRET} by http://u:a b@host")) == "refused *** by http://***@host"
    monkeypatch.setenv(name, "mae")  # too short
    assert str(LoupeError("mae: must be a number")) == "mae: must be a number"


def test_nested_values_are_masked():
    assert mask_values({"a": ["s3://k:x@b", 1]}) == {"a": ["s3://***@b", 1]}


ODD = st.text(st.characters(min_codepoint=33, exclude_categories=("Z", "C")), min_size=1, max_size=20)


@given(ODD, ODD, st.sampled_from(["http", "https", "s3", "postgresql", "mysql+pymysql", "tcp", "sftp"]))
def test_no_part_of_a_password_remains(start, end, scheme):
    password = f"{start}{SECRET}{end}"
    for url in (f"{scheme}://user:{password}@host/a", f"{scheme}://:{password}@host"):
        masked = mask_secrets(f"before '{url}' after")
        assert SECRET not in masked
        assert start + SECRET not in masked
        assert masked.startswith("before '")
        assert masked.endswith("' after")
        assert mask_secrets(masked) == masked


@given(ODD.map(lambda text: text.replace("&", "-")), st.sampled_from(["password", "api_key", "Sig", "x-goog-date"]))
def test_no_part_of_a_query_value_remains(value, name):
    masked = mask_secrets(f"see https://host/a?x=1&{name}={value}{SECRET}&y=2 now")
    assert masked == f"see https://host/a?x=1&{name}=***&y=2 now"


def test_parts_that_a_library_quotes_are_masked():
    url = "postgresql://u:sec%40ret@wor/d@host/db?sslpassword=hunter2"
    text = "could not translate host name 'wor/d@host': sec@ret, hunter2, wor"
    masked = describe_error(ValueError(text), url)
    assert not any(part in masked for part in ("sec", "ret,", "wor", "hunter2"))


def test_a_text_is_masked_before_it_is_cut():
    url = f"http://u:{SECRET * 100}@host"
    assert SECRET not in describe_error(ValueError("x" * (LONGEST_DESCRIPTION - 30) + url))
    with pytest.raises(UsageError) as refused:
        parse_settings("train", {"steps": "x" * (LONGEST_QUOTE - 30) + url})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("step", "field"),
    [("preprocess", "source"), ("preprocess", "data_dir"), ("preprocess", "scheduler"), ("train", "dataset"),
     ("sweep", "storage"), ("evaluate", "photos"), ("upscale", "model")],
)  # fmt: skip
def test_texts_of_settings_are_masked_and_the_values_are_not(step, field):
    given = {field: f"tcp://u:{SECRET}@host/a,tcp://host/b"} | ({"inputs": "a.png"} if step == "upscale" else {})
    settings = parse_settings(step, given)
    assert SECRET in str(getattr(settings, field))
    assert SECRET not in str(settings.to_texts())
    assert settings.to_texts()[field].endswith("host/b")


@pytest.mark.parametrize("query", ["", f"?token={SECRET}"])
def test_names_of_folders_contain_no_secret(query):
    url = f"s3://k:{SECRET}@bucket/photos{query}"
    assert sources.name_sources((url,)) == "photos"
    folder = str(storage.get_local_folder(url))
    assert folder.endswith("/bucket/photos")
    assert SECRET not in folder


def test_different_urls_have_different_folders_in_the_cache():
    urls = [
        "s3://bucket/a", "s3://k:p@bucket/a", "s3://k:p@other/a", "s3://k:p@bucket/x@a", "s3://k:p@other/x@a",
        "http://host:1/x@a", "http://host:2/x@a", "s3://bucket/a?token=1/a", "s3://bucket/a?token=1/b",
        "ftp://anna@host/a", "ftp://otto@host/a",
    ]  # fmt: skip
    assert len({storage.get_local_folder(url) for url in urls}) == len(urls)
    assert storage.get_local_folder("s3://bucket/photo@2x").parts[-3:] == ("s3", "bucket", "photo@2x")


def test_a_masked_url_is_refused_with_what_to_give():
    with pytest.raises(UsageError, match=r"^dataset: must have its password or token, .* give the full URL"):
        storage.exists("memory://***@bucket/data", "manifest.parquet", "dataset")


def test_errors_of_file_systems_contain_no_secret():
    with pytest.raises(UsageError) as refused:
        storage.exists(f"nosuch://u:{SECRET}@host/a", "manifest.parquet")
    assert SECRET not in str(refused.value)


def test_repr_of_a_job_contains_no_url():
    url = f"tcp://u:{SECRET}@host"
    job = WorkerJob({"a": url}, url, url, "1", "p", url, "d", {"dataset": url}, url, 1, 1, None, False)
    photo = sources.SourcePhoto(url, "a.png", "", url)
    assert SECRET not in repr((job, photo))
