"""File names with control characters, flags, shell code or HTML are kept as they are and never interpreted."""

import os
import unicodedata

import pyarrow.parquet
import pytest
from jobs import is_harmless, loupe
from PIL import Image

from loupe.config import parse_settings
from loupe.config.checkout import find_in_checkout
from loupe.data import sources
from loupe.data.dataset import Dataset
from loupe.errors import UsageError
from loupe.photos.comparison import validate_file
from loupe.photos.inputs import find_photos
from loupe.search.sweep_loader import load_sweep
from loupe.steps import evaluate, restore
from loupe.tracking import models
from loupe.tracking.resolver import resolve_model

LONG = "x" * (255 - len(".png")) + ".png"  # the maximum length
NAMES = [
    "new\nline.png",
    "\x1b[31mred\x1b[0m.png",
    "\x1b]0;title\x07.png",
    "e\u0301\u0323.png",
    "\u202egnp.png",
    "--help.png",
    "-.png",
    "--out=..png",
    "$(touch canary).png",
    "a,b.png",
    "*[x]?.png",
    "<script>alert(1)</script>.png".replace("/", "\u2215"),
    "{name}%s.png",
    "caf\udce9.png",  # a byte that is not UTF-8
    LONG,
]


@pytest.fixture
def folder(work, photo):
    (work / "photos").mkdir()
    for number, name in enumerate(NAMES):
        (work / "photos" / name).write_bytes(photo + bytes(number))  # all contents differ
    return work / "photos"


def run(*arguments, cwd, status=0):
    """Run a command; returns its output after a check for control characters."""
    done = loupe(*arguments, cwd=cwd, status=status)
    assert "Traceback" not in done.stderr
    printed = done.stdout + "".join(line for line in done.stderr.splitlines(True) if "━" not in line)
    assert is_harmless(printed), printed
    return printed


def list_names(folder):
    return sorted(name for name in os.listdir(folder))


def test_upscale_keeps_the_file_names_of_a_folder(work, folder):
    run("upscale", "photos", "--out", "large", "--model", "tiny", "--compare", "page.html", cwd=work)
    assert list_names(work / "large") == sorted(NAMES)
    assert list_names(work) == ["large", "page.html", "photos"]
    for name in NAMES:
        with Image.open(work / "large" / name) as image:
            assert image.size == (96, 72)
    page = (work / "page.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_upscale_takes_names_after_a_double_dash_as_files(work, folder):
    run("upscale", "--out", "../large", "--model", "tiny", "--", *NAMES, cwd=folder)
    assert list_names(work / "large") == sorted(NAMES)
    assert list_names(folder) == sorted(NAMES)


def test_upscale_does_not_follow_links_out_of_a_folder(work, folder, surroundings):
    for name in NAMES:
        (folder / name).unlink()
    (folder / "linked").symlink_to(surroundings)
    (folder / "linked.png").symlink_to(surroundings / "secret.png")
    (folder / "broken.png").symlink_to("../../outside/nothing.png")
    os.mkfifo(folder / "pipe.png")
    printed = run("upscale", "photos", "--out", "large", "--model", "tiny", cwd=work, status=1)
    assert "photos/linked: links to folders are not followed\n" in printed
    assert "photos/linked.png: links to files outside of the folder are not followed\n" in printed
    assert "photos/broken.png: links to files outside of the folder are not followed\n" in printed
    assert "photos/pipe.png: skipped, not an image\n" in printed
    assert not (work / "large").exists()


def test_a_name_that_is_too_long_is_refused_with_its_field(work, folder, monkeypatch):
    monkeypatch.chdir(work)
    name = "x" * 300

    def parse(step, **fields):
        return parse_settings(step, {"quiet": True} | fields)

    calls = [
        ("photos", lambda: evaluate.run(parse("evaluate", photos=name))),
        ("model", lambda: resolve_model(f"{name}.onnx")),
        ("model", lambda: models.find_model(f"{name}.keras")),
        ("inputs", lambda: find_photos([name], work)),
        ("mask", lambda: restore.run(parse("restore", inputs=["sample"], mask=name))),
        ("source", lambda: sources.list_photos(parse("preprocess", source=name))),
        ("dataset", lambda: Dataset(name)),
        ("sweep", lambda: load_sweep(find_in_checkout(name))),
        ("compare", lambda: validate_file(work / f"{name}.html", overwrite=False)),
    ]
    for field, call in calls:
        with pytest.raises(UsageError, match=f"^{field}: .*{name}"):
            call()
    assert len(find_photos(["photos"], work / name).jobs) == len(NAMES)


def test_dry_run_prints_one_line_per_photo(work, folder):
    printed = run("upscale", "photos", "--out", "large", "--dry_run", cwd=work)
    assert len(printed.splitlines()) == len(NAMES)
    assert r"photos/new\nline.png -> large/new\nline.png" in printed
    assert r"\x1b[31mred" in printed
    assert r"\u202egnp.png" in printed


def test_each_failed_photo_is_reported_in_one_line(work, folder):
    for name in NAMES:
        (folder / name).write_bytes(b"no photo")
    printed = run("upscale", "photos", "--out", "large", "--model", "tiny", cwd=work, status=1)
    assert len([line for line in printed.splitlines() if line.startswith("photos/")]) == len(NAMES)
    assert not (work / "large").exists()


def test_manifest_has_the_names_and_the_dataset_folder_a_harmless_name(work, folder):
    source = "\x1b[31m\n\u202e" + 100 * "é"
    folder.rename(work / source)
    printed = run("preprocess", "--source", source, "--label_size", "30", cwd=work)
    assert f"{len(NAMES)} photos" in printed
    made = next((work / "data").glob("*/manifest.parquet"))
    paths = {row["path"] for row in pyarrow.parquet.read_table(made).to_pylist() if not row["reason"]}
    assert paths == {name.replace("\udce9", "\ufffd") for name in NAMES}
    assert is_harmless(made.parent.name)
    assert len(os.fsencode(made.parent.name)) < 200


def test_evaluate_scores_a_folder_of_such_names(work, folder):
    printed = run("evaluate", "--photos", "photos", "--label_size", "30", "--model", "bicubic", cwd=work)
    assert f"on photos, {len(NAMES)} images" in printed


def test_exactly_the_control_characters_are_escaped():
    from loupe.cli.progress import escape_control_characters

    for number in range(0x20000):
        character = chr(number)
        harmful = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        assert (escape_control_characters(character) != character) == harmful
        assert is_harmless(escape_control_characters(character))


def test_the_middle_of_a_very_long_error_is_omitted(capsys):
    from loupe.cli.progress import LONGEST_ERROR, print_error

    print_error("is short")
    print_error(f"first {'/'.join(['x' * 200] * 30)} last")
    short, long = capsys.readouterr().err.splitlines()
    assert short == "is short"
    assert len(long) == LONGEST_ERROR + 1
    assert (long[:6], long[-5:]) == ("first ", " last")
