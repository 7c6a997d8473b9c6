"""File names that a terminal, a parser of flags or a page would act on: results have them, nothing acts on them."""

import os
import unicodedata

import pyarrow.parquet
import pytest
from jobs import is_harmless, loupe
from PIL import Image

LONG = "x" * (255 - len(".png")) + ".png"  # as long as a name may be
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
    "caf\udce9.png",  # a byte that is no UTF-8
    LONG,
]


@pytest.fixture
def folder(work, photo):
    (work / "photos").mkdir()
    for number, name in enumerate(NAMES):
        (work / "photos" / name).write_bytes(photo + bytes(number))  # no two alike
    return work / "photos"


def printed(*arguments, cwd, status=0):
    """What a command prints, which a terminal would only show."""
    done = loupe(*arguments, cwd=cwd, status=status)
    assert "Traceback" not in done.stderr
    shown = done.stdout + "".join(line for line in done.stderr.splitlines(True) if "━" not in line)
    assert is_harmless(shown), shown
    return shown


def names_in(folder):
    return sorted(name for name in os.listdir(folder))


def test_upscale_gives_every_photo_of_a_folder_its_result_by_the_same_name(work, folder):
    printed("upscale", "photos", "--out", "large", "--model", "tiny", "--compare", "page.html", cwd=work)
    assert names_in(work / "large") == sorted(NAMES)
    assert names_in(work) == ["large", "page.html", "photos"]
    for name in NAMES:
        with Image.open(work / "large" / name) as image:
            assert image.size == (96, 72)
    page = (work / "page.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_upscale_takes_such_names_behind_a_double_dash_and_none_is_a_flag(work, folder):
    printed("upscale", "--out", "../large", "--model", "tiny", "--", *NAMES, cwd=folder)
    assert names_in(work / "large") == sorted(NAMES)
    assert names_in(folder) == sorted(NAMES)


def test_upscale_follows_no_link_out_of_a_folder(work, folder, surroundings):
    for name in NAMES:
        (folder / name).unlink()
    (folder / "linked").symlink_to(surroundings)
    (folder / "linked.png").symlink_to(surroundings / "secret.png")
    (folder / "broken.png").symlink_to("../../outside/nothing.png")
    os.mkfifo(folder / "pipe.png")
    shown = printed("upscale", "photos", "--out", "large", "--model", "tiny", cwd=work, status=1)
    assert "photos/linked: a link to a folder, which is not followed\n" in shown
    assert "photos/linked.png: a link to a file outside the folder, which is not followed\n" in shown
    assert "photos/broken.png: a link to a file outside the folder, which is not followed\n" in shown
    assert "photos/pipe.png: skipped, not an image\n" in shown
    assert not (work / "large").exists()


def test_a_dry_run_tells_a_line_a_photo(work, folder):
    shown = printed("upscale", "photos", "--out", "large", "--dry_run", cwd=work)
    assert len(shown.splitlines()) == len(NAMES)
    assert r"photos/new\nline.png -> large/new\nline.png" in shown
    assert r"\x1b[31mred" in shown
    assert r"\u202egnp.png" in shown


def test_a_photo_of_such_a_name_that_cannot_be_upscaled_is_told_in_a_line(work, folder):
    for name in NAMES:
        (folder / name).write_bytes(b"no photo")
    shown = printed("upscale", "photos", "--out", "large", "--model", "tiny", cwd=work, status=1)
    assert len([line for line in shown.splitlines() if line.startswith("photos/")]) == len(NAMES)
    assert not (work / "large").exists()


@pytest.mark.slow
def test_preprocess_lists_them_as_they_are_and_names_its_folder_plainly(work, folder):
    source = "\x1b[31m\n\u202e" + 100 * "é"
    folder.rename(work / source)
    shown = printed("preprocess", "--source", source, "--label_size", "30", cwd=work)
    assert f"{len(NAMES)} photos" in shown
    made = next((work / "data").glob("*/manifest.parquet"))
    paths = {row["path"] for row in pyarrow.parquet.read_table(made).to_pylist() if not row["reason"]}
    assert paths == {name.replace("\udce9", "\ufffd") for name in NAMES}
    assert is_harmless(made.parent.name)
    assert len(os.fsencode(made.parent.name)) < 200


@pytest.mark.slow
def test_evaluate_takes_a_folder_of_them(work, folder):
    shown = printed("evaluate", "--photos", "photos", "--label_size", "30", "--model", "bicubic", cwd=work)
    assert f"on photos, {len(NAMES)} images" in shown


def test_what_is_escaped_is_what_nobody_sees():
    from loupe.cli.progress import escape_control_characters

    for number in range(0x20000):
        sign = chr(number)
        harmful = unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        assert (escape_control_characters(sign) != sign) == harmful
        assert is_harmless(escape_control_characters(sign))
