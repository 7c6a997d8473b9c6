"""A prepared dataset whose files are not what was written: named, and refused, by every step that reads them."""

import pytest
from jobs import complaint, loupe

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults of datasets")]
HARMS = {
    "changed": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    loupe("preprocess", "--smoke", "true", "--quiet", cwd=folder)
    (dataset,) = (folder / "data").iterdir()
    return folder, dataset


@pytest.mark.parametrize("harm", HARMS)
def test_a_shard_that_was_harmed_on_disk_is_named_and_refused(harm, place):
    place, dataset = place
    shard = dataset / "labels-00000.npy"
    content = shard.read_bytes()
    shard.write_bytes(HARMS[harm](content))
    try:
        for step in (["train", "--dataset", dataset.name, "--smoke", "true"],
                     ["evaluate", "--dataset", dataset.name, "--split", "all", "--model", "bicubic"]):  # fmt: skip
            line = complaint(loupe(*step, "--quiet", cwd=place, status=1))
            assert f"{shard.relative_to(place)} is missing or changed" in line
    finally:
        shard.write_bytes(content)
    loupe("evaluate", "--dataset", dataset.name, "--split", "all", "--model", "bicubic", "--quiet", cwd=place)
