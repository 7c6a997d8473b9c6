"""The programs that measure import what tests of steps and of the report share."""

import sys
from pathlib import Path

for folder in ("benchmarks", "report", "steps"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
