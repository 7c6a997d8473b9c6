"""Makes the helpers of the tests of steps and of the report importable."""

import sys
from pathlib import Path

for folder in ("benchmarks", "report", "steps"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
