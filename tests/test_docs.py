"""The Markdown files: links lead to files and headings, and commands have known steps, options and sweep files."""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from loupe.config import STEPS
from loupe.config.networks import NETWORKS
from loupe.config.optimizers import OPTIMIZERS
from loupe.upscalers import bundled

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
COMMANDS = sorted(
    {
        (page.name, command)
        for page in PAGES
        if page.name != "CHANGELOG.md"  # names options that were removed
        for command in re.findall(r"(?:^|`|&& )(loupe \w+ [^#`\n&]*)", page.read_text(), re.MULTILINE)
        if command.split()[1] in STEPS
    }
)


def list_anchors(page: Path) -> set[str]:
    """List the anchors of a page's headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in list_anchors(file), target


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_have_known_options(page: str, command: str) -> None:
    _, step, *words = shlex.split(command)
    fields = set(STEPS[step].model_fields)
    if step == "train":
        fields |= {name for part in (*NETWORKS.values(), *OPTIMIZERS.values()) for name in part.model_fields}
    for word in words:
        if word.startswith("--"):
            name = word.removeprefix("--").replace("-", "_")
            known = name in fields or f"{name}_" in fields or name.removeprefix("no_") in fields or name == "help"
            assert known, f"{page}: {word}"
        if word.startswith("sweeps/"):
            assert (ROOT / word).is_file(), f"{page}: {word}"


def load_script(name: str) -> Any:
    """Load a script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_each_bundled_network_has_a_model_card_with_the_stored_scores() -> None:
    script = load_script("model_cards")
    page = script.CARDS.read_text()
    names = {file.stem for file in bundled.FOLDER.glob("*.onnx")}
    assert set(re.findall(r"^## (.*)$", page, re.MULTILINE)) == names == script.load_texts()["networks"].keys()
    assert page == script.write_cards()


def test_script_of_the_first_image() -> None:
    script = load_script("before_after")
    sheet = script.draw_comparison(Image.open(script.IMAGES / "macaw.jpg"))
    stored = Image.open(script.IMAGES / "before-after.png")
    difference = ImageChops.difference(sheet, stored.convert("RGB"))
    assert max(high for _, high in difference.getextrema()) <= 2  # processors round differently
