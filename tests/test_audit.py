"""CI's audit fails for what is vulnerable, and not because the service that knows it cannot be reached."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parent.parent / ".ci" / "audit.py"
FOUND = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
VULNERABLE = {"name": "one", "version": "1.0", "vulns": [FOUND]}
SOUND = {"name": "two", "version": "1.0", "vulns": []}
UNKNOWN = {"name": "three", "skip_reason": "Dependency not found on PyPI"}
OFFLINE = "Traceback …\nrequests.exceptions.ConnectionError: no way there"
BLOCKED = "ERROR:pip_audit._cli:Could not connect\nERROR: Tip: your network may be blocking this service. Try another"


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ([VULNERABLE, SOUND, UNKNOWN], 1, "one 1.0: PYSEC-1, mended in 2.0\npip-audit: 1 known vulnerabilities in 2"),
        ([SOUND, UNKNOWN], 0, "pip-audit: 0 known vulnerabilities in 1 packages, by pypi; 1 are unknown to it"),
        ([UNKNOWN, UNKNOWN], 0, "pip-audit: nothing was audited: no service can be reached from here"),
        (OFFLINE, 0, "pip-audit: nothing was audited: no service can be reached from here"),
        (BLOCKED, 0, "pip-audit: nothing was audited: no service can be reached from here"),
        ("Traceback …\nTypeError: a fault", 1, "pip-audit: TypeError: a fault"),
        ("", 1, "pip-audit: status 0"),
    ],
)
def test_an_answer_counts_and_none_is_told(answer: object, status: int, said: str, tmp_path: Path) -> None:
    stream, text = ("stderr", answer) if isinstance(answer, str) else ("stdout", json.dumps({"dependencies": answer}))
    (tmp_path / "pip_audit.py").write_text(f"import sys\nsys.{stream}.write({text!r})\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, AUDIT], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr
