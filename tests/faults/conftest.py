"""The real servers and commands of `tests/steps`, for tests of what breaks."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "steps"))
