"""A few kills of each step; `killing.py` by hand does the many."""

import pytest
from killing import kill

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("step", "times"), [("preprocess", 3), ("upscale", 9), ("train", 3), ("register", 2)])
def test_a_step_that_is_killed_ends_with_the_same_result_when_it_is_started_again(step, times, tmp_path):
    killed = kill(step, times, tmp_path, seed=times)
    assert sum(killed.values()) == times
    assert any(name != "had ended" for name in killed)


def test_a_sweep_that_is_killed_ends_with_the_same_trials_when_it_is_started_again(tmp_path):
    assert sum(kill("sweep", 2, tmp_path, seed=1).values()) == 2
