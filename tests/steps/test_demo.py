"""The demo page and the file of --compare, in a browser and with the keyboard only."""

import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from jobs import build_env, loupe
from PIL import Image

from loupe.config.photos import Demo
from loupe.errors import UsageError
from loupe.steps import demo

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]  # fmt: skip
pytestmark = pytest.mark.xdist_group("demo")  # one process: the tests share a browser and a server
MODEL, TAKEN = 0x0110, 0x0132  # tags of EXIF


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=CHROMIUM)
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """A new browser page; requests to other hosts and errors fail the test."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    faults = []
    ours = re.compile(r"http://127\.0\.0\.1:|data:|blob:|file:")
    opened.on("request", lambda request: None if ours.match(request.url) else faults.append(request.url))
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("filechooser", lambda chooser: None)  # otherwise expect_file_chooser starts later than the dialog
    yield opened
    opened.close()
    assert not faults


@pytest.fixture
def photo(tmp_path) -> Path:
    import skimage

    exif = Image.Exif()
    exif[MODEL], exif[TAKEN] = "Loupe 1", "2016:05:04 03:02:01"
    image = Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png").resize((300, 200))
    image.save(tmp_path / "photo.jpg", exif=exif)
    return tmp_path / "photo.jpg"


@contextmanager
def serving(folder, complaints=""):
    """Run `loupe demo`, yield its address, stop it with Ctrl-C and check its standard error."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    # The printed address contains 127.0.0.1, not the name: the server must accept it.
    command = [sys.executable, "-m", "loupe", "demo", "--host", "localhost", "--port", "0", "--model", "bundled"]
    command += ["--host-names", "proxy.example"]
    temporary = folder / "temporary"
    temporary.mkdir()
    ours = build_env(TMPDIR=str(temporary))
    with (folder / "errors.txt").open("w+") as errors:
        running = subprocess.Popen(command, cwd=folder, env=ours, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield running.stdout.readline().strip()
            running.send_signal(signal.SIGINT)
            assert running.wait(30) == 0
        finally:
            running.kill()
            running.communicate()
        errors.seek(0)
        assert re.fullmatch(complaints, errors.read(), re.DOTALL)
    assert not list(temporary.glob("loupe-*"))  # no visitor's photo is left


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as address:
        yield address


def go_to(page, control):
    """Press Tab until a control has the focus."""
    for _ in range(30):
        if control.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{control} is not reached by Tab")


def choose(page, file):
    go_to(page, page.get_by_role("button", name="upload"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(file)
    page.get_by_role("row", name=file.name).wait_for()


def press(page, name):
    go_to(page, page.get_by_role("button", name=name))
    page.keyboard.press("Enter")


def line(page):
    return page.locator(".images").evaluate("element => element.style.getPropertyValue('--at')")


def use_figure(page):
    """Use the slider and the radio buttons of the figure with the keyboard."""
    lanczos, pixels = (page.get_by_role("img", name=name) for name in ("by Lanczos", "original pixels"))
    assert (lanczos.is_visible(), pixels.count()) == (True, 0)
    go_to(page, page.get_by_role("radio", name="Lanczos"))
    page.keyboard.press("ArrowRight")
    pixels.wait_for()
    assert lanczos.count() == 0
    go_to(page, page.get_by_role("slider", name="Position of the line"))
    before = page.locator(".images").screenshot()
    assert line(page) == "50%"
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert line(page) == "60%"
    assert page.locator(".images").screenshot() != before
    page.keyboard.press("Home")
    assert line(page) == "0%"


def test_a_photo_is_upscaled_and_downloaded_with_the_keyboard(server, page, photo, tmp_path):
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server)
    page.goto(server)
    choose(page, photo)
    press(page, "Upscale")
    page.locator("figure").wait_for()
    assert "photo.jpg: 300×200 to 450×300, by the bundled network small of 3:2" in page.locator("figure").inner_text()
    with page.expect_download() as download:
        press(page, "Download photo-1.5x.jpg")
    assert download.value.suggested_filename == "photo-1.5x.jpg"
    download.value.save_as(tmp_path / "large.jpg")
    with Image.open(tmp_path / "large.jpg") as large, Image.open(photo) as small:
        assert (large.format, large.size) == ("JPEG", (450, 300))
        assert (large.getexif()[MODEL], large.getexif()[TAKEN]) == ("Loupe 1", "2016:05:04 03:02:01")
        expected = np.asarray(small.convert("RGB").resize(large.size, Image.Resampling.LANCZOS), float)
        assert np.abs(np.asarray(large, float) - expected).mean() < 4
    use_figure(page)
    unnamed = "element => !(element.labels?.length || element.ariaLabel || element.innerText)"
    controls = page.locator("button:visible, input:visible").all()
    assert len(controls) >= 8
    assert not [control for control in controls if control.evaluate(unnamed)]


def test_errors_are_one_line_and_the_server_continues(server, page, photo, tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:5000])
    Image.new("1", (6000, 5100)).save(tmp_path / "large.png")
    Image.new("1", (3000, 3000)).save(tmp_path / "grows.png")
    page.goto(server)
    page.get_by_text("100 MB").wait_for()
    press(page, "Upscale")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text() == "photo: must be chosen first"
    page.get_by_role("slider", name="Scale factor").press("End")  # 8
    for name, line in {
        "text.jpg": "text.jpg: not an image",
        "cut.jpg": "cut.jpg: damaged: ",
        "large.png": "large.png: photo: must have at most 30 megapixels, got 30.6",
        "grows.png": "grows.png: result: must have at most 178 megapixels, got 576.0",
    }.items():
        choose(page, tmp_path / name)
        alert.wait_for(state="detached")  # of the file before
        press(page, "Upscale")
        alert.wait_for()
        assert alert.inner_text().startswith(line)
        assert "\n" not in alert.inner_text()
        assert page.get_by_role("button", name="Download").is_disabled()
        press(page, "Clear")
    choose(page, photo)
    press(page, "Upscale")
    page.locator("figure").wait_for()
    assert "300×200 to 2400×1600, by the bundled network small of 4:1" in page.locator("figure").inner_text()


def test_only_uploaded_files_are_read(photo, tmp_path):
    httpx = pytest.importorskip("httpx", reason="gradio, which brings it, is not installed")
    file = {"path": str(photo), "meta": {"_type": "gradio.FileData"}}
    with serving(tmp_path, "Traceback.* it was not uploaded by a user\\.\n") as server:
        event = httpx.post(f"{server}/gradio_api/call/upscale", json={"data": [file, 2]}, timeout=60).json()[
            "event_id"
        ]
        assert httpx.get(f"{server}/gradio_api/call/upscale/{event}", timeout=60).text.startswith("event: error")
        assert httpx.get(f"{server}/gradio_api/file={photo}", timeout=60).status_code == 403


def test_requests_of_other_sites_are_refused_and_deleted_uploads_are_reported(photo, tmp_path):
    httpx = pytest.importorskip("httpx", reason="gradio, which brings it, is not installed")
    with serving(tmp_path) as server, httpx.Client(base_url=server, timeout=60) as client:
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"Host": "proxy.example"}).status_code == 200
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
            assert client.get("/", headers=headers).status_code == 403
            files = {"files": photo.read_bytes()}
            assert client.post("/gradio_api/upload", headers=headers, files=files).status_code == 403
        assert not list((tmp_path / "temporary").rglob("*.jpg"))
        (path,) = client.post("/gradio_api/upload", files={"files": ("photo.jpg", photo.read_bytes())}).json()
        Path(path).unlink()
        data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, 2]}
        event = client.post("/gradio_api/call/upscale", json=data).json()["event_id"]
        answer = client.get(f"/gradio_api/call/upscale/{event}").text
        assert "photo.jpg: was deleted after 10 minutes; choose it again" in answer


def test_the_comparison_works_with_the_keyboard(page, photo, tmp_path):
    loupe("upscale", photo, "--out", "large.jpg", "--compare", "page.html", "--model", "bundled", cwd=tmp_path)
    asked = []
    page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    page.goto((tmp_path / "page.html").as_uri())
    assert "photo.jpg: 300×200 to 450×300" in page.locator("figure").inner_text()
    use_figure(page)
    assert set(asked) <= {"file", "data"}  # it needs nothing but itself


def test_only_an_invalid_scale_is_reported_as_such(photo, tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed")
    from loupe.web.demo import Visitors, build_page

    workers = Mock(**{"upscale.side_effect": ValueError("unpack")})
    blocks = build_page(workers, Visitors(), tmp_path)
    upscale = next(event.fn for event in blocks.fns.values() if event.name == "upscale")
    message, _ = upscale(str(photo), 9.0, Mock(session_hash="a"))
    assert "scale: must be a ratio such as 3:2 or 1.5, from 1 to 8, got 9.0" in message
    with pytest.raises(ValueError, match="unpack"):
        upscale(str(photo), 2.0, Mock(session_hash="a"))


def test_a_photo_is_refused_if_the_folder_of_the_results_is_full(photo, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="gradio is not installed")
    from loupe.web import storage
    from loupe.web.demo import Visitors, build_page

    monkeypatch.setattr(storage, "MAX_BYTES", photo.stat().st_size - 1)
    workers = Mock()
    blocks = build_page(workers, Visitors(), tmp_path)
    upscale = next(event.fn for event in blocks.fns.values() if event.name == "upscale")
    message, _ = upscale(str(photo), 2.0, Mock(session_hash="a"))
    assert "server: has too many photos, try again in some minutes" in message
    assert not workers.upscale.called
    assert list(tmp_path.iterdir()) == [photo]


def test_without_gradio_the_error_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['gradio'] = None; from loupe.cli.main import main; sys.exit(main(['demo']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=build_env(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "loupe demo: error: needs gradio: pip install 'loupe-upscale[demo]'\n"


@pytest.mark.parametrize("host", ["192.0.2.1", "a b", "ö..b"])
def test_a_host_that_is_not_this_machine_is_refused(host):
    with pytest.raises(UsageError, match=f"^host: must be an address of this machine, got '{host}': [^(]+$"):
        demo._open_socket(Demo(host=host, port=0))


def test_a_used_port_and_a_missing_model_are_refused_in_one_line(tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = loupe("demo", "--port", port, "--model", "bundled", cwd=tmp_path, status=2)
    assert taken.stderr == f"loupe demo: error: port: must be free on 127.0.0.1, got {port}: Address already in use\n"
    missing = loupe("demo", "--port", "0", "--model", "nothing.onnx", cwd=tmp_path, status=2)
    assert missing.stderr.startswith("loupe demo: error: model: must be ")
    assert missing.stderr.count("\n") == 1
    assert (taken.stdout, missing.stdout) == ("", "")
