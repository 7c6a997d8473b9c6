"""Photos of the bundled sample, of folders and of tars are listed."""

import hashlib
import itertools
import os
import re
import shutil
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from loupe.config import parse_settings
from loupe.data import sources, storage
from loupe.data.preparation import choose_crop
from loupe.data.sources import list_photos
from loupe.errors import LoupeError, UsageError


@pytest.fixture
def listed(tmp_path):
    def list_source(*sources, categories=(), limit=None):
        fields = {"source": tuple(map(str, sources)), "categories": categories, "limit": limit, "quiet": True}
        return list_photos(parse_settings("preprocess", fields | {"data_dir": str(tmp_path / "data")}))

    return list_source


def content(photo):
    """Return the content of a listed photo."""
    return photo.read_bytes()


def facts(photos):
    return [(photo.path, photo.category, photo.sha256) for photo in photos]


def refused(listed, *sources, **choice):
    with pytest.raises(UsageError) as caught:
        listed(*sources, **choice)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_prepared_dataset_is_not_used_as_photos(listed, photo_folder):
    (photo_folder / "manifest.parquet").touch()
    message = "source: must be photos, got the prepared dataset"
    assert refused(listed, photo_folder) == f"{message} '{photo_folder}'; train and evaluate read it with --dataset"


def test_prepared_datasets_of_an_object_store_are_not_used_as_photos(listed, monkeypatch):
    names = ["a.jpg", "photos-1.jpg", "photos-1/figure.png", "photos-1/manifest.parquet", "photos-1/more/figure.png"]
    monkeypatch.setattr(storage, "list_files", lambda url: dict.fromkeys(names, 1))
    monkeypatch.setattr(storage, "read_range", lambda url, offset, size: b"x")
    assert [photo.path for photo in listed("s3://bucket/photos")] == ["a.jpg", "photos-1.jpg"]
    monkeypatch.setattr(storage, "list_files", lambda url: {"a.jpg": 1, "manifest.parquet": 1})
    message = "source: must be photos, got the prepared dataset 's3://***@bucket/photos'"
    assert refused(listed, "s3://user:word@bucket/photos").startswith(message)


def test_a_folder_whose_path_is_nearly_too_long_is_listed(listed, photo_folder, monkeypatch):
    before = facts(listed(photo_folder))
    monkeypatch.chdir(photo_folder)
    length = 4090  # bytes of the path of the last folder; a path has at most 4095
    rest = length - len(str(photo_folder))
    for size in np.diff(np.linspace(0, rest, 22).astype(int)):  # 21 names of less than 200 bytes, each after a slash
        os.mkdir("d" * (size - 1))
        os.chdir("d" * (size - 1))
    assert len(os.getcwd()) == length
    assert facts(listed(photo_folder)) == before


def test_the_sample_consists_of_bundled_photos_and_needs_no_network(listed, monkeypatch):
    def no_network(*_):
        raise AssertionError("the sample asked for a connection")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    photos = listed("sample")
    assert len(photos) == 18
    assert {photo.category for photo in photos} == {"sklearn", "skimage"}
    for photo in photos:
        with Image.open(photo.file) as image:
            assert min(image.size) >= 150, photo.path


def test_a_limit_counts_images_before_other_files(listed, photo_folder, tmp_path):
    folder = shutil.copytree(photo_folder, tmp_path / "mixed")
    for number in range(40):
        (folder / f"photo{number}.xmp").write_text(f"data of another program {number}")
    photos, images = listed(folder, limit=6), listed(photo_folder)
    assert {photo.path for photo in photos} == {
        photo.path for photo in sorted(images, key=lambda photo: photo.sha256)[:6]
    }
    assert len(listed(folder, limit=len(images) + 3)) == len(images) + 3


@pytest.mark.parametrize("suffix", [".pdf", ".PDF", ".mpg", ".h5", ".eps", ".wmf"])
def test_files_that_pillow_cannot_decode_are_not_photos(listed, photo_folder, suffix):
    before = facts(listed(photo_folder, limit=6))
    for number in range(40):
        (photo_folder / f"{number}{suffix}").write_text(f"a document or video {number}")
    assert facts(listed(photo_folder, limit=6)) == before
    assert f"{suffix}' (" in refused(listed, photo_folder / f"0{suffix}")


def test_datasets_and_artifacts_in_a_folder_of_photos_are_not_listed(listed, photo_folder, tmp_path):
    folder = shutil.copytree(photo_folder, tmp_path / "mine")
    before = facts(listed(folder))
    for name, marker in (("data/photos-1", "data/photos-1/manifest.parquet"), ("mlruns/1", "mlflow.db")):
        (folder / name).mkdir(parents=True)
        (folder / marker).touch()
        shutil.copy(folder / before[0][0], folder / name / "pairs.png")
    assert [photo for photo in facts(listed(folder)) if photo[0] != "mlflow.db"] == before


def test_a_photo_has_the_hash_of_its_content(listed, photo_folder, crops):
    for photo in listed(photo_folder):
        assert content(photo) == crops[photo.path]
        assert photo.sha256 == hashlib.sha256(crops[photo.path]).hexdigest()


def test_an_image_file_is_a_source(listed, photo_folder, crops):
    (photo,) = listed(photo_folder / "001.cat" / "001_0001.jpg")
    assert (photo.path, photo.category, content(photo)) == ("001_0001.jpg", "", crops["001.cat/001_0001.jpg"])


@pytest.mark.parametrize("source", ["./sample", "sample/"])
def test_a_folder_named_sample_does_not_contain_the_bundled_photos(listed, photo_folder, monkeypatch, source):
    photo_folder.rename(photo_folder.parent / "sample")
    monkeypatch.chdir(photo_folder.parent)
    photos = listed(source)
    assert {photo.source for photo in photos} == {source}
    assert {choose_crop(parse_settings("preprocess", {}), photo) for photo in photos} == {"centre"}


def test_photos_are_hashed_in_parallel(listed, photo_folder, monkeypatch):
    both, read = threading.Barrier(2, timeout=5), []

    def wait_for_a_second_photo(photo):
        read.append(photo)
        if len(read) <= 2:
            both.wait()
        return photo

    monkeypatch.setattr(sources, "count_cores", lambda: 2)
    monkeypatch.setattr(sources, "_hash_photo", wait_for_a_second_photo)
    assert len(listed(photo_folder)) == len(read)


def test_a_folder_is_searched_recursively_and_sorted_by_path(listed, photo_folder, crops):
    photos = listed(photo_folder)
    assert [photo.path for photo in photos] == sorted(crops)
    assert [photo.category for photo in photos] == [path.split("/")[0] for path in sorted(crops)]


def test_a_tar_in_the_layout_of_caltech_256_equals_its_folder(listed, photo_folder, crops, write_tar):
    tar = write_tar(photo_folder.parent / "photos.tar", dict(reversed(crops.items())))
    assert facts(listed(tar)) == facts(listed(photo_folder))
    assert [content(photo) for photo in listed(tar)] == [content(photo) for photo in listed(photo_folder)]


def test_a_tar_without_a_top_level_folder_equals_its_folder(listed, photo_folder, crops, write_tar):
    tar = write_tar(photo_folder.parent / "photos.tar", crops, top="")
    assert facts(listed(tar)) == facts(listed(photo_folder))


@pytest.mark.parametrize("top", ["./", "./256_ObjectCategories/"])
def test_a_tar_of_the_folder_dot_equals_its_folder(listed, photo_folder, crops, write_tar, top):
    tar = write_tar(photo_folder.parent / "photos.tar", crops, top=top)
    assert facts(listed(tar)) == facts(listed(photo_folder))


def test_a_tar_with_photos_at_its_top_level_equals_its_folder(listed, photo_folder, crops, write_tar):
    (photo_folder / "alone.jpg").write_bytes(crops["001.cat/001_0001.jpg"])
    alone = {"alone.jpg": crops["001.cat/001_0001.jpg"]}
    tar = write_tar(photo_folder.parent / "photos.tar", crops | alone, top="./")
    assert facts(listed(tar)) == facts(listed(photo_folder))


def test_photos_outside_of_folders_have_no_category(listed, photo_folder, crops):
    (photo_folder / "alone.jpg").write_bytes(crops["001.cat/001_0001.jpg"])
    assert {photo.path: photo.category for photo in listed(photo_folder)}["alone.jpg"] == ""


def test_limit_keeps_the_smallest_content_hashes(listed, photo_folder):
    hashes = sorted(photo.sha256 for photo in listed(photo_folder))
    for limit in range(1, 9):
        assert sorted(photo.sha256 for photo in listed(photo_folder, limit=limit)) == hashes[:limit]


def test_a_larger_limit_includes_a_smaller_one(listed, photo_folder):
    chosen = [set(facts(listed(photo_folder, limit=limit))) for limit in range(1, 8)]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(chosen))


def test_several_sources_are_listed_together(listed, photo_folder):
    paths = [photo.path for photo in listed(photo_folder, "sample")]
    assert len(paths) == 7 + 18
    assert paths == sorted(paths)


def test_a_file_of_two_sources_is_listed_once(listed, photo_folder, monkeypatch, crops, write_tar):
    write_tar(photo_folder.parent / "photos.tar", crops)
    monkeypatch.chdir(photo_folder.parent)
    names = ("photos", "./photos", "photos/", photo_folder, "photos/001.cat", "photos.tar", "./photos.tar")
    assert facts(listed(*names)) == facts(listed("photos", "photos.tar"))
    assert len(listed(*names)) == 2 * len(crops)


def test_categories_select_photos(listed, photo_folder):
    photos = listed(photo_folder, categories=("001.cat", "003.person"))
    assert sorted({photo.category for photo in photos}) == ["001.cat", "003.person"]
    assert len(photos) == 5


def test_an_unknown_category_is_refused(listed, photo_folder):
    text = refused(listed, photo_folder, categories=("001.cat", "009.dog"))
    assert text.startswith("categories:")
    assert "'009.dog'" in text


def test_a_path_that_does_not_exist_is_refused(listed, tmp_path):
    text = refused(listed, tmp_path / "nowhere")
    assert text.startswith("source:")
    assert "nowhere" in text


def test_a_folder_without_images_is_refused(listed, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "notes.txt").write_text("no photo")
    assert "must contain an image" in refused(listed, tmp_path / "letters")


def test_a_tar_without_images_is_refused(listed, tmp_path, write_tar):
    tar = write_tar(tmp_path / "letters.tar", {"letters/notes.txt": b"no photo"})
    assert "must contain an image" in refused(listed, tar)


def test_an_empty_tar_is_refused(listed, tmp_path, write_tar):
    assert "must contain an image" in refused(listed, write_tar(tmp_path / "empty.tar", {}))


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused(listed, tmp_path, crops, write_tar, mode):
    tar = write_tar(tmp_path / "photos.tar", crops, mode=mode)
    assert "must be a complete, uncompressed tar" in refused(listed, tar)


def test_a_file_that_is_not_a_tar_is_refused(listed, tmp_path):
    (tmp_path / "photos.tar").write_bytes(b"")
    assert "photos.tar" in refused(listed, tmp_path / "photos.tar")
    (tmp_path / "photos.tar").write_text("no tar at all" * 100)
    assert "photos.tar" in refused(listed, tmp_path / "photos.tar")


SECOND_HEADER = 512 + 2048  # of a tar whose first file has 1537 to 2048 bytes


@pytest.fixture
def whole_tar(tmp_path, write_tar, crops):
    content = crops["001.cat/001_0001.jpg"][:2000].ljust(2000, b"\0")
    return write_tar(tmp_path / "photos.tar", {f"001.cat/{number}.jpg": content for number in range(3)})


def test_a_tar_that_ends_inside_a_photo_is_refused(listed, whole_tar):
    os.truncate(whole_tar, SECOND_HEADER + 512 + 100)
    assert "must be a complete, uncompressed tar" in refused(listed, whole_tar)


def test_a_tar_that_ends_inside_a_header_is_refused(listed, whole_tar):
    os.truncate(whole_tar, SECOND_HEADER + 100)
    assert "must be a complete, uncompressed tar" in refused(listed, whole_tar)


def test_a_tar_with_a_damaged_header_is_refused(listed, whole_tar):
    with whole_tar.open("r+b") as file:
        file.seek(SECOND_HEADER + 30)
        file.write(b"damage")
    assert "must be a complete, uncompressed tar" in refused(listed, whole_tar)


def test_hidden_files_and_folders_are_not_listed(listed, photo_folder, crops, write_folder):
    before = facts(listed(photo_folder))
    hidden = dict.fromkeys(("001.cat/._1.jpg", ".old/1.jpg", "001.cat/.old/1.jpg"), crops["001.cat/001_0001.jpg"])
    write_folder(photo_folder, hidden)
    assert facts(listed(photo_folder)) == before


@pytest.mark.parametrize("path", ["001.cat/._001_0001.jpg", ".old/1.jpg", "001.cat/.old/1.jpg"])
def test_hidden_files_and_folders_of_a_tar_are_not_listed(listed, photo_folder, crops, write_tar, path):
    tar = write_tar(photo_folder.parent / "photos.tar", crops | {path: crops["001.cat/001_0001.jpg"]})
    assert facts(listed(tar)) == facts(listed(photo_folder))


def test_the_error_for_a_folder_without_readable_images_names_the_reason(listed, tmp_path):
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "1.jpg").symlink_to(tmp_path / "photo.jpg")
    assert refused(listed, folder).endswith(f"got the folder '{folder}' ('1.jpg': a link: not followed)")


def test_links_are_listed_and_not_followed(listed, photo_folder, tmp_path, crops, write_folder):
    before = facts(listed(photo_folder))
    elsewhere = write_folder(tmp_path / "elsewhere", {"1.jpg": crops["001.cat/001_0001.jpg"]})
    (photo_folder / "linked").symlink_to(elsewhere)
    (photo_folder / "linked.jpg").symlink_to(elsewhere / "1.jpg")
    (photo_folder / "circle").symlink_to(photo_folder)
    (photo_folder / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    links = dict.fromkeys(("linked", "linked.jpg", "circle", "broken.jpg"), "a link: not followed")
    photos = listed(photo_folder)
    assert {photo.path: photo.reason for photo in photos if photo.reason} == links
    assert [fact for fact in facts(photos) if fact[2]] == before


def test_a_file_that_disappears_during_the_listing_is_ignored(listed, photo_folder, monkeypatch):
    before, list_names = facts(listed(photo_folder)), os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [*list_names(folder), "000_deleted.jpg"])
    assert facts(listed(photo_folder)) == before


def test_a_folder_that_cannot_be_read_is_refused_with_the_reason(listed, photo_folder, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "listdir", refuse)
    error = refused(listed, photo_folder)
    assert error == f"source: must be readable, got {str(photo_folder)!r}: Permission denied"


@pytest.fixture
def web(tmp_path, serve):
    """A web server of `tmp_path`: its URL, whether it reports sizes and knows ranges, and whether ranges fail."""
    behaviour = SimpleNamespace(reports_sizes=True, knows_ranges=True, fails=False)

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
            if wanted and behaviour.fails:
                self.send_error(503)
            elif wanted and behaviour.knows_ranges:
                with open(self.translate_path(self.path), "rb") as stream:
                    content = stream.read()
                start, end = map(int, wanted.groups())
                self.send_response(206)
                self.send_header("Content-Length", str(len(content[start : end + 1])))
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
                self.end_headers()
                self.wfile.write(content[start : end + 1])
            else:
                super().do_GET()

        def send_header(self, keyword, value):
            if keyword != "Content-Length" or behaviour.reports_sizes:
                super().send_header(keyword, value)

        def log_message(self, *_):
            pass

    behaviour.url = serve(partial(Handler, directory=tmp_path))
    return behaviour


def test_photos_on_a_web_server_equal_those_of_the_folder(listed, photo_folder, web):
    (photo_folder / "index.html").write_text(
        "".join(f'<a href="{link}">a</a>' for link in ("?C=N;O=D", "/", "001.cat/", "002.cup/", "003.person/"))
    )
    photos = [photo for photo in listed(f"{web.url}/photos/") if photo.path != "index.html"]
    (photo_folder / "index.html").unlink()
    expected = listed(photo_folder)
    assert facts(photos) == facts(expected)
    assert [content(photo) for photo in photos] == [content(photo) for photo in expected]
    assert [photo.size for photo in photos] == [photo.size for photo in expected]


def test_a_tar_on_a_web_server_equals_its_folder(listed, photo_folder, crops, write_tar, web):
    write_tar(photo_folder.parent / "photos.tar", crops)
    assert facts(listed(f"{web.url}/photos.tar?download=1")) == facts(listed(photo_folder))


def test_the_url_of_an_image_is_a_source(listed, photo_folder, crops, web):
    (photo,) = listed(f"{web.url}/photos/001.cat/001_0001.jpg?download=1")
    assert (photo.path, photo.category, content(photo)) == ("001_0001.jpg", "", crops["001.cat/001_0001.jpg"])


def test_a_web_server_that_does_not_report_sizes_is_refused(listed, photo_folder, web):
    web.reports_sizes = False
    message = f"source: must be on a server that reports the sizes of files, got '{web.url}/photos/001.cat/"
    assert refused(listed, f"{web.url}/photos").startswith(message)


@pytest.mark.parametrize("harm", ["no ranges", "error"])
def test_a_web_server_that_does_not_return_a_part_of_a_tar_is_reported(
    listed, photo_folder, crops, write_tar, web, harm, monkeypatch
):
    write_tar(photo_folder.parent / "photos.tar", crops)
    list_tar = sources._list_tar

    def list_and_harm(*given):
        members = list(list_tar(*given))
        web.knows_ranges, web.fails = harm != "no ranges", harm == "error"
        return members

    monkeypatch.setattr(sources, "_list_tar", list_and_harm)
    with pytest.raises(LoupeError, match=r"^source: 'http://[^\n]*(must return \d+ bytes, got \d{5}|503[^\n]*)$"):
        listed(f"{web.url}/photos.tar")


def test_an_error_of_the_server_while_a_tar_is_listed_is_reported_with_the_url(
    listed, photo_folder, crops, write_tar, web
):
    write_tar(photo_folder.parent / "photos.tar", crops)
    web.fails = True
    with pytest.raises(LoupeError, match=r"^source: 'http://[^\n]*photos\.tar'[^\n]*503[^\n]*$"):
        listed(f"{web.url}/photos.tar")
