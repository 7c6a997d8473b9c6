"""Finding photos and naming results: unique names in the same folder structure, no overwriting, no links followed."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.config import parse_settings
from loupe.errors import LoupeError, UsageError
from loupe.imaging.isolated_reader import PhotoReader
from loupe.photos.denoising import DenoiseTransform
from loupe.photos.files import list_photos, open_streams, process_photos
from loupe.photos.inputs import find_photos, find_photos_in_place
from loupe.photos.streams import replace_streams


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/one.jpg", "a/b/one.jpg", "a/b/two.png", "c/one.jpg", "c/ONE.JPG", "a/.hidden.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), 90, "uint8")).save(file, "PNG" if name.endswith("png") else "JPEG")
    return tmp_path


def outs(tree: Path, *inputs: str, out: str = "out", extension: str | None = None) -> dict[str, str]:
    found = find_photos([str(tree / text) for text in inputs], tree / out, extension)
    return {str(job.photo.relative_to(tree)): str(job.out.relative_to(tree)) for job in found.jobs}


def test_results_keep_the_folder_structure(tree):
    assert outs(tree, "a") == {
        "a/.hidden.png": "out/.hidden.png", "a/one.jpg": "out/one.jpg", "a/b/one.jpg": "out/b/one.jpg",
        "a/b/two.png": "out/b/two.png",
    }  # fmt: skip


def test_results_of_several_folders_are_in_folders_of_their_names(tree):
    assert outs(tree, "a/b", "c")["a/b/one.jpg"] == "out/b/one.jpg"
    assert sorted(set(outs(tree, "a/b", "c").values())) == [
        "out/b/one.jpg", "out/b/two.png", "out/c/ONE.JPG", "out/c/one-2.jpg"
    ]  # fmt: skip


def test_equal_names_get_numbers(tree):
    assert list(outs(tree, "a/one.jpg", "a/b/one.jpg", "c/one.jpg").values()) == [
        "out/one.jpg", "out/one-2.jpg", "out/one-3.jpg"
    ]  # fmt: skip
    assert sorted(outs(tree, "a/b", "a/one.jpg", extension=".webp").values()) == [
        "out/b/one.jpg.webp", "out/b/two.png.webp", "out/one.jpg.webp"
    ]  # fmt: skip


def test_names_that_differ_only_in_case_get_numbers(tree):
    """A memory card ignores case on every system: the second result would replace the first."""
    assert list(outs(tree, "a/one.jpg", "c/ONE.JPG").values()) == ["out/one.jpg", "out/ONE-2.JPG"]


def test_the_name_of_a_result_does_not_depend_on_photos_with_two_extensions(tmp_path):
    names = ("photo.jpg", "photo.png", "photo.png.jpg", "photo.png.jpg.jpg", "photo.jpg.jpg", "photo.heic.jpg")
    expected = {
        None: (*names[:-1], "photo.heic.jpg.jpg"),
        ".jpg": ("photo.jpg", "photo.png.jpg", "photo.png.jpg.jpg", "photo.png.jpg.jpg.jpg", "photo.jpg.jpg"),
    }
    for name in names:
        (tmp_path / name).touch()
    for extension, results in expected.items():
        for name, result in zip(names, results, strict=False):
            alone = find_photos([str(tmp_path / name)], tmp_path / "out", extension).jobs
            assert [job.out.name for job in alone] == [result]
        together = {
            job.photo.name: job.out.name for job in find_photos([str(tmp_path)], tmp_path / "out", extension).jobs
        }
        assert together | dict(zip(names, results, strict=False)) == together


@pytest.mark.parametrize(
    ("name", "result"), [("..jpg", "..jpg"), ("..png.jpg", "..png.jpg.jpg"), ("...jpg", "...jpg")]
)
def test_a_name_that_starts_with_dots_has_a_result(tmp_path, name, result):
    (tmp_path / name).touch()
    (job,) = find_photos([str(tmp_path)], tmp_path / "out", ".jpg").jobs
    assert job.out.name == result


@pytest.mark.parametrize("extension", [None, ".jpg", ".webp"])
def test_names_of_results_do_not_depend_on_other_photos(tree, extension):
    """Otherwise `--resume` would skip a new photo when a folder grew."""
    before = outs(tree, "c", extension=extension)
    for name in ("ONE.png", "One.JPEG", "one.bmp", "one.heic", "one.gif"):
        (tree / "c" / name).write_bytes(b"")
    after = outs(tree, "c", extension=extension)
    assert {photo: after[photo] for photo in before} == before
    assert len(set(after.values())) == len(after) == len(before) + 5


def test_patterns_are_expanded_and_out_may_be_a_file(tree):
    assert set(outs(tree, "a/**/*.png")) == {"a/b/two.png"}
    assert outs(tree, "a/one.jpg", out="big.webp") == {"a/one.jpg": "big.webp"}


@pytest.mark.parametrize(
    ("inputs", "out", "word"),
    [(["nowhere"], "out", "nowhere"), (["a/*.gif"], "out", "gif"), (["a"], "a/one.jpg", "one.jpg"),
     (["a/one.jpg"], "nowhere/big.jpg", "nowhere"), (["a/one.jpg"], "big.xyz", "big.xyz"),
     (["a/one.jpg"], "a/one.jpg", "must not replace a photo"), (["a"], "a", "must not replace a photo"),
     (["a/b/two.png", "a/one.jpg"], "a/b", "must not replace a photo"),
     (["a", "c"], "a/one.jpg", "out: must be a folder for several photos, got the file '.*one.jpg'"),
     (["a", "c"], "big.JPG", "out: must be a folder for several photos, got the file name '.*big.JPG'"),
     (["a"], "big.heic", "out: must be a folder for several photos, got the file name '.*big.heic'")],
)  # fmt: skip
def test_invalid_inputs_and_outputs_are_errors(tree, inputs, out, word):
    with pytest.raises(UsageError, match=word):
        outs(tree, *inputs, out=out)


def test_a_folder_with_the_name_of_an_image_accepts_several_photos(tree):
    (tree / "big.jpg").mkdir()
    assert outs(tree, "a/one.jpg", "a/b/two.png", out="big.jpg")["a/one.jpg"] == "big.jpg/one.jpg"
    assert outs(tree, "c", out="big.v2")["c/one.jpg"] == "big.v2/one-2.jpg"


@pytest.mark.parametrize("name", ["pipe", "pipe.jpg", "link.jpg"])
def test_a_pipe_with_a_file_for_its_result_is_refused(tmp_path, name):
    """Opening a pipe would wait for a writer."""
    os.mkfifo(tmp_path / ("pipe" if name == "pipe" else "pipe.jpg"))
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    rule = "inputs: must be regular files, folders or patterns, got the device, pipe or stream '.*/" + name
    with pytest.raises(UsageError, match=f"^{rule}'$"):
        find_photos([str(tmp_path / name)], tmp_path / "big.jpg")
    assert find_photos([str(tmp_path / name)], tmp_path / "big").others == [tmp_path / name]


def test_a_shell_s_process_substitution_is_refused_with_a_file_for_its_result(tmp_path):
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "wb"), pytest.raises(UsageError, match="got the device, pipe or stream"):
        find_photos([f"/dev/fd/{reading}"], tmp_path / "big.jpg")


@pytest.mark.parametrize("out", ["big", "big.jpg", "-"])
def test_a_link_to_a_name_that_is_too_long_is_a_photo_that_fails(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    Path("link.jpg").symlink_to("a" * 256)
    with open_streams(parse_settings("restore", {"inputs": ["link.jpg"], "out": out})) as settings:
        found = list_photos(settings)
        (outcome,) = process_photos(settings, found, DenoiseTransform(0), [PhotoReader()])
        assert outcome.reason == "file name too long"
        Path(settings.out).touch()


def test_in_place_accepts_the_default_output_folder_of_mlflow_run():
    passed = {"inputs": ["holiday"], "in_place": "true", "out": "upscaled", "suffix": "none"}
    assert parse_settings("upscale", passed).in_place
    with pytest.raises(UsageError, match="in_place: must not be used with out, got both"):
        parse_settings("upscale", passed | {"out": "large"})


def test_a_suffix_for_an_output_file_is_refused(tree):
    with pytest.raises(UsageError, match=r"^suffix: must be none if out is a file, got '_big'"):
        find_photos([str(tree / "a/one.jpg")], tree / "large.jpg", suffix="_big")


def test_each_hard_link_of_a_photo_is_replaced_and_each_path_only_once(tree):
    os.link(tree / "a/one.jpg", tree / "a/link.jpg")
    found = find_photos_in_place([str(tree / "a"), str(tree / "a/one.jpg"), str(tree / "a/../a/one.jpg")])
    names = sorted(job.photo.name for job in found.jobs)
    assert names == [".hidden.png", "link.jpg", "one.jpg", "one.jpg", "two.png"]  # a/one.jpg and a/b/one.jpg


@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_closed_standard_streams_are_refused(name, tree, monkeypatch):
    monkeypatch.setattr(sys, name, None)
    field = {"stdin": "inputs", "stdout": "out"}[name]
    given = {"inputs": [str(tree / "a/one.jpg")], "out": "large.jpg"} | {field: ["-"] if name == "stdin" else "-"}
    with (
        pytest.raises(LoupeError, match=f"^{field}: the standard (in|out)put is closed"),
        replace_streams(parse_settings("upscale", given)) as settings,
    ):
        Path(settings.out).touch()


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"inputs": ["-", "a.jpg"]}, "inputs: must be a single file if inputs or out is '-', got -, a.jpg"),
     ({"inputs": ["."], "out": "-"}, "inputs: must be a single file if inputs or out is '-', got ."),
     ({"inputs": ["-"]}, "the standard input must be an image that Loupe can read: not an image of"),
     ({"inputs": ["-"], "in_place": "true"}, "in_place: must not be used with the standard input, got both"),
     ({"out": "-", "size": "9x9", "skip_larger": "true"},
      "skip_larger: must not be used with the standard output, got both"),
     ({"out": "-", "dry_run": "true"}, "dry_run: must not be used with the standard output, got both")],
)  # fmt: skip
def test_standard_streams_are_refused_without_a_single_photo_or_result(monkeypatch, fields, message):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"text")))
    with pytest.raises(UsageError) as refused, replace_streams(parse_settings("upscale", fields)):
        pass
    assert str(refused.value).startswith(message)


def test_a_pattern_for_the_standard_output_must_match_a_single_photo(tree, monkeypatch):
    monkeypatch.chdir(tree)
    given = {"inputs": ["**/*.jpg"], "out": "-"}
    assert len([*Path().glob("**/*.jpg")]) > 1
    refusal = r"inputs: must be a single file if inputs or out is '-', got \*\*/\*\.jpg"
    with pytest.raises(UsageError, match=refusal), replace_streams(parse_settings("upscale", given)):
        pass
    given["inputs"] = ["a/one*"]
    with replace_streams(parse_settings("upscale", given)) as settings:
        assert settings.out.endswith("stdout.jpg")
        Path(settings.out).touch()


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({}, " (exists; --overwrite replaces it, --resume keeps it)"),
        ({"resume": True}, " (kept, it already exists)"),
        ({"overwrite": True}, ""),
    ],
)
def test_a_dry_run_shows_which_existing_results_are_not_replaced(given, note, tree, monkeypatch, capsys):
    monkeypatch.chdir(tree)
    (tree / "out").mkdir()
    (tree / "out/one.jpg").touch()
    list_photos(parse_settings("upscale", {"inputs": ["a"], "out": "out", "dry_run": True} | given))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "two" in line or "a/one" in line] == [
        f"a/one.jpg -> out/one.jpg{note}",
        "a/b/two.png -> out/b/two.png",
    ]


def test_a_dry_run_in_place_shows_no_existing_results(tree, capsys):
    list_photos(parse_settings("upscale", {"inputs": [str(tree / "a/one.jpg")], "in_place": True, "dry_run": True}))
    assert capsys.readouterr().out == f"{tree}/a/one.jpg -> {tree}/a/one.jpg\n"


def test_the_bundled_photo_can_be_written_to_the_standard_output():
    with open_streams(parse_settings("upscale", {"inputs": ["sample"], "out": "-"})) as settings:
        assert [Path(name).name for name in settings.inputs] == ["coffee.png"]
        Path(settings.out).touch()


def test_a_format_other_than_that_of_out_is_an_error(tree):
    assert outs(tree, "a/one.jpg", out="big.jpeg", extension=".jpg") == {"a/one.jpg": "big.jpeg"}
    with pytest.raises(UsageError, match=r"format: must be 'same' or the format of the file '.*big.png', got 'webp'"):
        outs(tree, "a/one.jpg", out="big.png", extension=".webp")


def test_results_in_the_input_folder_are_not_inputs(tree):
    before = outs(tree, "a", out="a/big")
    (tree / "a/big").mkdir()
    Image.new("L", (3, 3)).save(tree / "a/big/one.jpg")
    assert outs(tree, "a", out="a/big") == before


def test_the_output_folder_is_not_an_input(tree):
    before = outs(tree, "a", "c", out="out")
    (tree / "out").mkdir()
    Image.new("L", (3, 3)).save(tree / "out/one.jpg")
    assert outs(tree, "a", "c", "out", out="out") == before


@pytest.mark.parametrize(("pattern", "out"), [("a/**/*.jpg", "a/big"), ("a/*.jpg", "a/big.jpg")])
def test_results_in_the_output_folder_do_not_match_a_pattern(tree, pattern, out):
    before = outs(tree, pattern, out=out)
    for result in before.values():
        (tree / result).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 3)).save(tree / result)
    assert outs(tree, pattern, out=out) == before


@pytest.mark.parametrize("inputs", [["."], ["*"], ["*.jpg"], ["../a"]])
@pytest.mark.parametrize(
    "options", [{"suffix": "_big"}, {"extension": ".webp"}, {"suffix": "_big", "extension": ".webp"}]
)
def test_results_next_to_their_photos_are_not_photos(tree, monkeypatch, inputs, options):
    monkeypatch.chdir(tree / "a")
    before = find_photos(inputs, Path(), **options).jobs
    for job in before:
        job.out.write_bytes(job.photo.read_bytes())
    assert find_photos(inputs, Path(), **options).jobs == before


def test_a_photo_is_not_taken_for_the_result_of_a_photo_in_another_folder(tree):
    with pytest.raises(UsageError, match="out: must not replace a photo"):
        outs(tree, "a/one.jpg", "a/b/one.jpg", out="a/b")


def test_a_pattern_with_matches_only_in_the_output_folder_selects_them(tree):
    with pytest.raises(UsageError, match="out: must not replace a photo of the inputs"):
        outs(tree, "a/b/*.jpg", out="a/b")


def test_a_pattern_that_matches_a_folder_and_its_files_lists_each_photo_once(tree):
    assert outs(tree, "a/**") == outs(tree, "a")
    found = outs(tree, "*")
    assert (len(found), found["a/b/one.jpg"]) == (6, "out/a/b/one.jpg")


def test_an_empty_input_is_an_error(tree):
    with pytest.raises(UsageError, match="inputs: must be"):
        find_photos([""], tree / "out")


def test_a_repeated_photo_is_listed_once(tree):
    assert len(outs(tree, "a/one.jpg", "a/one.jpg", "a/*.jpg")) == 1


def test_links_to_folders_are_failures(tree):
    os.symlink(tree / "c", tree / "a" / "elsewhere")
    os.symlink(tree / "a", tree / "a" / "b" / "round")
    found = find_photos([str(tree / "a")], tree / "out")
    assert len(found.jobs) == 4
    assert {path.name for path, _ in found.failures} == {"elsewhere", "round"}


def test_other_files_are_listed_and_images_with_another_extension_are_failures(tree):
    (tree / "a/notes.txt").write_text("not an image")
    (tree / "a/one.jpg").rename(tree / "a/one.xyz")
    (tree / "a/b/one.jpg").rename(tree / "a/b/bare")
    os.mkfifo(tree / "a/pipe")
    os.mkfifo(tree / "a/pipe.jpg")
    Image.new("RGB", (40, 40)).save(tree / "a/icon.ico")
    found = find_photos([str(tree / "a")], tree / "out")
    assert [path.name for path in found.others] == ["icon.ico", "notes.txt", "pipe", "pipe.jpg"]
    assert [(path.name, reason) for path, reason in found.failures] == [
        ("one.xyz", "is an image, but Loupe does not read files with the extension .xyz"),
        ("bare", "is an image, but has no extension"),
    ]
