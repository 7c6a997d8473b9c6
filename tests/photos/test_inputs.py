"""Names of results: the tree is kept, nothing collides, nothing is overwritten, nothing is followed out."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.errors import UsageError
from loupe.photos.inputs import find


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/one.jpg", "a/b/one.jpg", "a/b/two.png", "c/one.jpg", "c/ONE.JPG", "a/.hidden.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), 90, "uint8")).save(file, "PNG" if name.endswith("png") else "JPEG")
    return tmp_path


def outs(tree: Path, *inputs: str, out: str = "out", suffix: str | None = None) -> dict[str, str]:
    found = find([str(tree / text) for text in inputs], tree / out, suffix)
    return {str(job.photo.relative_to(tree)): str(job.out.relative_to(tree)) for job in found.jobs}


def test_the_tree_is_kept(tree):
    assert outs(tree, "a") == {
        "a/.hidden.png": "out/.hidden.png", "a/one.jpg": "out/one.jpg", "a/b/one.jpg": "out/b/one.jpg",
        "a/b/two.png": "out/b/two.png",
    }  # fmt: skip


def test_several_folders_keep_their_names(tree):
    assert outs(tree, "a/b", "c")["a/b/one.jpg"] == "out/b/one.jpg"
    assert sorted(set(outs(tree, "a/b", "c").values())) == [
        "out/b/one.jpg", "out/b/two.png", "out/c/ONE.JPG", "out/c/one-2.jpg"
    ]  # fmt: skip


def test_names_that_would_collide_are_counted(tree):
    assert list(outs(tree, "a/one.jpg", "a/b/one.jpg", "c/one.jpg").values()) == [
        "out/one.jpg", "out/one-2.jpg", "out/one-3.jpg"
    ]  # fmt: skip
    assert sorted(outs(tree, "a/b", "a/one.jpg", suffix=".webp").values()) == [
        "out/b/one.webp", "out/b/two.webp", "out/one.webp"
    ]  # fmt: skip


def test_patterns_are_expanded_and_one_file_may_be_named(tree):
    assert set(outs(tree, "a/**/*.png")) == {"a/b/two.png"}
    assert outs(tree, "a/one.jpg", out="big.webp") == {"a/one.jpg": "big.webp"}


@pytest.mark.parametrize(
    ("inputs", "out", "word"),
    [(["nowhere"], "out", "nowhere"), (["a/*.gif"], "out", "gif"), (["a"], "a/one.jpg", "one.jpg"),
     (["a/one.jpg"], "nowhere/big.jpg", "nowhere"), (["a/one.jpg"], "big.xyz", "big.xyz"),
     (["a/one.jpg"], "a/one.jpg", "the photo itself"), (["a"], "a", "the photo itself"),
     (["a/b/two.png", "a/one.jpg"], "a/b", "another of the photos")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(tree, inputs, out, word):
    with pytest.raises(UsageError, match=word):
        outs(tree, *inputs, out=out)


def test_a_format_that_is_not_that_of_the_file_to_write_is_refused(tree):
    assert outs(tree, "a/one.jpg", out="big.jpeg", suffix=".jpg") == {"a/one.jpg": "big.jpeg"}
    with pytest.raises(UsageError, match=r"format: must be that of out, '.*big\.png', or be left out, got webp"):
        outs(tree, "a/one.jpg", out="big.png", suffix=".webp")


def test_results_inside_the_folder_are_no_photos_the_next_time(tree):
    before = outs(tree, "a", out="a/big")
    (tree / "a/big").mkdir()
    Image.new("L", (3, 3)).save(tree / "a/big/one.jpg")
    assert outs(tree, "a", out="a/big") == before


def test_the_output_folder_among_the_inputs_is_left_out(tree):
    before = outs(tree, "a", "c", out="out")
    (tree / "out").mkdir()
    Image.new("L", (3, 3)).save(tree / "out/one.jpg")
    assert outs(tree, "a", "c", "out", out="out") == before


def test_an_empty_text_is_no_path(tree):
    with pytest.raises(UsageError, match="inputs: must be"):
        find([""], tree / "out")


def test_a_photo_named_twice_is_one_photo(tree):
    assert len(outs(tree, "a/one.jpg", "a/one.jpg", "a/*.jpg")) == 1


def test_links_to_folders_are_not_followed_and_told(tree):
    os.symlink(tree / "c", tree / "a" / "elsewhere")
    os.symlink(tree / "a", tree / "a" / "b" / "round")
    found = find([str(tree / "a")], tree / "out")
    assert len(found.jobs) == 4
    assert {path.name for path, _ in found.failures} == {"elsewhere", "round"}


def test_other_files_are_told_and_images_with_a_strange_suffix_are_failures(tree):
    (tree / "a/notes.txt").write_text("no image")
    (tree / "a/one.jpg").rename(tree / "a/one.xyz")
    found = find([str(tree / "a")], tree / "out")
    os.mkfifo(tree / "a/pipe")
    os.mkfifo(tree / "a/pipe.jpg")
    found = find([str(tree / "a")], tree / "out")
    assert [path.name for path in found.others] == ["notes.txt", "pipe", "pipe.jpg"]
    assert [path.name for path, _ in found.failures] == ["one.xyz"]
