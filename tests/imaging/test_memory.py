"""The default memory budget, and the limits of containers."""

import pytest

from loupe.imaging import memory


@pytest.mark.parametrize(("total", "budget"), [(64 * 10**9, 2 * 10**9), (3 * 10**9, 15 * 10**8)])
def test_default_is_2_gb_or_half_of_the_memory(total, budget, monkeypatch):
    monkeypatch.setattr(memory, "read_total_memory", lambda: total)
    assert memory.get_default_budget() == budget


def test_total_memory_is_that_of_this_machine():
    with open("/proc/meminfo") as file:
        machine = int(next(line for line in file if line.startswith("MemTotal")).split()[1]) * 1024
    assert 10**8 < memory.read_total_memory() <= machine


@pytest.mark.parametrize(
    ("line", "folder", "name"),
    [("0::/user/app", "unified", "memory.max"), ("4:cpu,memory:/user/app", "memory", "memory.limit_in_bytes")],
)
def test_limits_of_the_group_and_of_all_groups_above_count(line, folder, name, tmp_path, monkeypatch):
    groups = (("", tmp_path / "unified", "memory.max"), ("memory", tmp_path / "memory", "memory.limit_in_bytes"))
    monkeypatch.setattr(memory, "CONTROL_GROUPS", groups)
    (tmp_path / folder / "user" / "app").mkdir(parents=True)
    for group, text in (("user/app", "max"), ("user", "400"), ("", "900")):
        (tmp_path / folder / group / name).write_text(f"{text}\n")
    (tmp_path / "membership").write_text(f"7:pids:/user\n{line}\n")
    assert list(memory._read_container_limits(tmp_path / "membership")) == [400, 900]
