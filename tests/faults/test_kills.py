"""A few kills of each step; `killing.py` by hand does the many."""

import pytest
from killing import kill

pytestmark = pytest.mark.slow
SEED = 6  # of the moments; five kills come before the command is left alone


@pytest.mark.parametrize(
    ("step", "times"), [("preprocess", 3), ("upscale", 10), ("train", 3), ("sweep", 2), ("register", 2)]
)
def test_a_step_that_is_killed_ends_with_the_same_result_when_it_is_started_again(step, times, tmp_path):
    assert kill(step, times, tmp_path, seed=SEED).total() == times
