"""Checks the packages of this environment for known vulnerabilities with pip-audit.

The exit status is 1 if a package is vulnerable or pip-audit fails. A service that is unreachable, or that knows none
of the packages (a PyPI mirror without the JSON API), is reported in one line and is not a failure.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

SERVICES = ("pypi", "osv")
# Parts of the errors of pip-audit that concern the service.
SERVICE_ERRORS = (
    "requests.exceptions.",
    "pip_audit._service.interface.",
    "your network may be blocking this service",
)
TIMEOUT_S = 600


def audit(service: str) -> list[dict[str, Any]] | str:
    """Return each package with its vulnerabilities, or the reason why the service has no result."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--format", "json"]
    command += ["--skip-editable", "--progress-spinner", "off", "--timeout", "20"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"no result within {TIMEOUT_S} seconds"
    if not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        if any(words in last for words in SERVICE_ERRORS):
            return last
        sys.exit(f"pip-audit: {last}")
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
        vulnerable = bool(list(list_vulnerabilities(found)))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        sys.exit(f"pip-audit: status {done.returncode}, and its result is not readable: {done.stdout[:80]!r}")
    # 1: a package is vulnerable. Every other status is a crash, perhaps after a part of the result.
    if done.returncode != vulnerable:
        sys.exit(f"pip-audit: must exit with status {int(vulnerable)} for its result, got {done.returncode}")
    if not found:
        sys.exit("pip-audit: must check the packages of this environment, got an empty list")
    if all("vulns" not in package for package in found):
        return f"the service knows none of {len(found)} packages"
    return found


def list_vulnerabilities(packages: list[dict[str, Any]]) -> Iterator[str]:
    """Yield one line per vulnerability; raise KeyError for a package without a result or a reason."""
    for package in packages:
        for found in package["vulns"] if "vulns" in package or "skip_reason" not in package else ():
            fixed = ", ".join(found["fix_versions"]) or "no version"
            yield f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}"


def main() -> int:
    """Query the services until one has a result; returns the exit status."""
    for service in SERVICES:
        answer = audit(service)
        if isinstance(answer, str):
            print(f"pip-audit: {service} failed: {answer[:200]}")
            continue
        lines = list(list_vulnerabilities(answer))
        print(*lines, sep="\n", end="\n" if lines else "")
        skipped = sum("vulns" not in package for package in answer)
        print(f"pip-audit: {len(lines)} known vulnerabilities in {len(answer) - skipped} packages, by {service}; "
              f"{skipped} are unknown to it")  # fmt: skip
        return 1 if lines else 0
    print("pip-audit: nothing was audited: no service is reachable")
    return 0


if __name__ == "__main__":
    sys.exit(main())
