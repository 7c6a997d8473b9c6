"""Steps refuse a dataset with a damaged shard and name the shard."""

import shutil

import pytest
from jobs import loupe, read_error

pytestmark = pytest.mark.slow
STEPS = {
    "train": ("--smoke",),
    "evaluate": ("--split", "all", "--model", "bicubic"),
}


def test_a_damaged_shard_is_named_and_refused_until_it_is_restored(tmp_path, dataset):
    shutil.copytree(dataset, tmp_path / "data" / dataset.name)
    shard = tmp_path / "data" / dataset.name / "labels-00000.npy"
    content = shard.read_bytes()
    changed, cut = content[:-1] + bytes([content[-1] ^ 1]), content[: len(content) // 2]
    for (step, given), damaged in zip(STEPS.items(), (changed, cut), strict=True):
        shard.write_bytes(damaged)
        line = read_error(loupe(step, "--dataset", dataset.name, *given, "--quiet", cwd=tmp_path, status=1))
        assert f"{shard.relative_to(tmp_path)} is missing or changed" in line
    shard.write_bytes(content)
    loupe("evaluate", "--dataset", dataset.name, *STEPS["evaluate"], "--quiet", cwd=tmp_path)
