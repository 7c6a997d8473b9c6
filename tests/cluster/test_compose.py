"""The compose file is valid, contains no secret, and starts the same commands as docs/cluster.md."""

import re
import subprocess
import sys

import pytest
import yaml
from jobs import ROOT

from loupe import __version__

FILE = ROOT / "docs" / "cluster" / "compose.yaml"
SERVICES = yaml.safe_load(FILE.read_text())["services"]
SECTION = (ROOT / "docs" / "cluster.md").read_text()
BLOCKS = [block.splitlines() for block in re.findall(r"^```\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)]


def split_command(command):
    return command.split("    #")[0].split()


def test_compose_file_follows_the_specification():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_passwords_are_variables(name):
    service = SERVICES[name]
    assert re.search(r":\d[\w.-]*$", service["image"])
    if "build" in service:
        assert service["image"] == f"loupe:{__version__.rpartition('.')[0]}"
        assert re.match(r"FROM \S+:\d\S*\n", service["build"]["dockerfile_inline"])
    secrets = {key: value for key, value in service["environment"].items() if "PASSWORD" in key or "SECRET" in key}
    assert secrets
    assert all(value is None or re.fullmatch(r"\$\{POSTGRES_PASSWORD:\?.*\}", value) for value in secrets.values())


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"sweep"}))
def test_services_have_health_checks_and_start_in_order(name):
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert "healthcheck" in SERVICES[other]
        assert how == {"condition": "service_healthy"}


def test_services_run_the_commands_of_the_page():
    database, *servers = BLOCKS[0]
    made = re.findall(r"createdb (\w+)", database)
    assert made == [SERVICES["postgres"]["environment"]["POSTGRES_DB"], "studies"]
    assert yaml.safe_load(FILE.read_text())["configs"]["databases"]["content"] == f"CREATE DATABASE {made[1]};"
    for name, line in zip(("mlflow", "scheduler", "worker"), servers, strict=True):
        command = split_command(SERVICES[name]["command"])
        assert command[: len(split_command(line))] == split_command(line)
        assert command[len(split_command(line)) :] in ([], ["--dashboard-address", ":8790"])  # for the health check


def test_sweep_runs_the_command_of_the_page():
    preprocess, sweep = map(split_command, BLOCKS[1])
    at = sweep.index("--dataset")  # the service uses the dataset of the sweep file
    assert split_command(SERVICES["sweep"]["command"]) == sweep[:at] + sweep[at + 2 :]
    shared = [preprocess[preprocess.index(flag) + 1] == sweep[sweep.index(flag) + 1]
              for flag in ("--scheduler", "--data-dir")]  # fmt: skip
    assert shared == [True, True]


def test_names_and_ports_of_the_page_are_those_of_the_services():
    text = SECTION + FILE.read_text()
    for name, port in re.findall(r"(?:tcp|http)://(\w+):(\d+)", text):
        assert name in SERVICES or name == "localhost"
        assert port in {"5000", "8786", "8790"}
    assert set(re.findall(r"postgresql://loupe@(\w+)/(\w+)", text)) == {
        ("postgres", "mlflow"),
        ("postgres", "studies"),
    }
    assert SERVICES["mlflow"]["ports"] == ["127.0.0.1:5000:5000"]  # the only open port
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["mlflow"]


def test_commands_of_the_page_have_known_options():
    from loupe.config import STEPS

    for line in BLOCKS[1]:
        step = split_command(line)[1]
        flags = [word.removeprefix("--").replace("-", "_") for word in split_command(line) if word.startswith("--")]
        assert set(flags) <= STEPS[step].model_fields.keys()
        assert not [
            word for word in split_command(line)[2:] if word.endswith(".toml") and not (ROOT / word).is_file()
        ]
