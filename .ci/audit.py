"""Asks for known vulnerabilities of all that is installed beside this interpreter, by pip-audit.

Exit status 1: something is vulnerable, or pip-audit itself is broken. A service that cannot be reached, or that knows
none of the packages (a mirror of PyPI without its JSON API answers so), is told in a line, and is no failure.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

SERVICES = ("pypi", "osv")
# What pip-audit's complaint holds where it is about the service, not about itself.
OF_SERVICE = ("requests.exceptions.", "pip_audit._service.interface.", "your network may be blocking this service")
PATIENCE = 600  # seconds


def audit(service: str) -> list[dict[str, Any]] | str:
    """Each package with its vulnerabilities, or why the service gives no answer."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service, "--format", "json"]
    command += ["--skip-editable", "--progress-spinner", "off", "--timeout", "20"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"not within {PATIENCE} seconds"
    if not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        if any(words in done.stderr for words in OF_SERVICE):
            return last
        sys.exit(f"pip-audit: {last}")
    found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    if all("skip_reason" in package for package in found):
        return f"it knows none of {len(found)} packages"
    return found


def vulnerable(packages: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each vulnerability."""
    for package in packages:
        for found in package.get("vulns", []):
            fixed = ", ".join(found["fix_versions"]) or "no version"
            yield f"{package['name']} {package['version']}: {found['id']}, mended in {fixed}"


def main() -> int:
    """Ask one service after the other until one answers; gives the exit status."""
    for service in SERVICES:
        answer = audit(service)
        if isinstance(answer, str):
            print(f"pip-audit: {service} gives no answer: {answer[:200]}")
            continue
        lines = list(vulnerable(answer))
        print(*lines, sep="\n", end="\n" if lines else "")
        skipped = sum("skip_reason" in package for package in answer)
        print(f"pip-audit: {len(lines)} known vulnerabilities in {len(answer) - skipped} packages, by {service}; "
              f"{skipped} are unknown to it")  # fmt: skip
        return 1 if lines else 0
    print("pip-audit: nothing was audited: no service can be reached from here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
