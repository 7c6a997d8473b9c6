"""The audit in CI fails for vulnerable packages, but not if the vulnerability service is unreachable."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parent.parent / ".ci" / "audit.py"
FOUND = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
VULNERABLE = {"name": "one", "version": "1.0", "vulns": [FOUND]}
SAFE = {"name": "two", "version": "1.0", "vulns": []}
ODD = (None, "text", {"a": 1}, [None], [[1]], [{"name": "four"}], [VULNERABLE | {"vulns": None}],
       [VULNERABLE | {"vulns": [1]}], [VULNERABLE | {"vulns": [{"id": "X", "fix_versions": None}]}])  # fmt: skip
UNKNOWN = {"name": "three", "skip_reason": "Dependency not found on PyPI"}
OFFLINE = "Traceback …\nrequests.exceptions.ConnectionError: no way there"
BLOCKED = "ERROR:pip_audit._cli:Could not connect\nERROR: Tip: your network may be blocking this service. Try another"


def run_audit(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the audit with a pip-audit that runs this code."""
    (folder / "pip_audit.py").write_text(f"import os, sys\n{code}\n")
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, AUDIT], capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize(
    "code",
    [
        f"print('{json.dumps({'dependencies': [SAFE]})}', flush=True); os.abort()",
        f"print('{json.dumps({'dependencies': [SAFE]})}'); sys.exit(2)",
        f"print('{json.dumps({'dependencies': [SAFE]})}'); sys.exit(1)",
        f"print('{json.dumps({'dependencies': [VULNERABLE]})}'); sys.exit(0)",
        "print('[half of')",
        "print('[]')",
        "print('{}')",
        *(f"print('{json.dumps({'dependencies': found})}'); sys.exit(1)" for found in ODD),
        "print('[' * 100000)",
        "sys.stdout.buffer.write(bytes([255]))",
        f"print('{json.dumps({'dependencies': [VULNERABLE | {'skip_reason': 'unknown'}]})}'); sys.exit(1)",
        "os.abort()",
    ],
)
def test_a_crash_of_the_tool_fails_the_audit(code: str, tmp_path: Path) -> None:
    done = run_audit(code, tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        ([VULNERABLE, SAFE, UNKNOWN], 1, "one 1.0: PYSEC-1, fixed in 2.0\npip-audit: 1 known vulnerabilities in 2"),
        ([SAFE, UNKNOWN], 0, "pip-audit: 0 known vulnerabilities in 1 packages, by pypi; 1 are unknown to it"),
        ([UNKNOWN, UNKNOWN], 0, "pip-audit: nothing was audited: no service is reachable"),
        (OFFLINE, 0, "pip-audit: nothing was audited: no service is reachable"),
        (BLOCKED, 0, "pip-audit: nothing was audited: no service is reachable"),
        ("requests.exceptions.Timeout\nTraceback …\nTypeError: an error", 1, "pip-audit: TypeError: an error"),
        ("", 1, "pip-audit: status 0"),
        ([], 1, "pip-audit: must check the packages of this environment, got an empty list"),
    ],
)
def test_only_vulnerabilities_and_errors_fail_the_audit(
    answer: object, status: int, expected: str, tmp_path: Path
) -> None:
    stream, text = ("stderr", answer) if isinstance(answer, str) else ("stdout", json.dumps({"dependencies": answer}))
    exit_status = int(isinstance(answer, list) and VULNERABLE in answer)
    done = run_audit(f"sys.{stream}.write({text!r}); sys.exit({exit_status})", tmp_path)
    assert done.returncode == status, done.stderr
    assert expected in done.stdout + done.stderr
