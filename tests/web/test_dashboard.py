"""optuna-dashboard: a sweep serves it for pages of this machine only, and names the missing package."""

import importlib.util
import sys
import types
import urllib.error
import urllib.request

import pytest

from loupe.errors import UsageError
from loupe.web import dashboard

FOREIGN = ("https://evil.example", "http://[x", "null", "")


def app(environ, start):
    start("200 OK", [])
    return [b"studies"]


def test_page_is_served_until_the_sweep_ends_and_refuses_other_sites(monkeypatch, capfd):
    module = types.SimpleNamespace(wsgi=lambda storage: app)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", module)
    with dashboard.serve_dashboard(None) as address:
        with urllib.request.urlopen(address) as page:
            assert page.read() == b"studies"
        for header in ({"Host": "evil.example"}, *({"Origin": origin} for origin in FOREIGN)):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(urllib.request.Request(address, headers=header))
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address)
    assert capfd.readouterr() == ("", "")


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^dashboard: needs optuna-dashboard: pip install optuna-dashboard$"):
        dashboard.check_installed()
