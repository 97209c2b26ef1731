"""Each image as a pod would run it: its user, a read-only root, nothing but /tmp to write to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tasks.contracts.code_digest import code_digest, modules_reached
from tasks.contracts.image_tags import AIRFLOW, STARTED, image_tag, stages_of
from tasks.contracts.stages import Image, Stage

ROOT = Path(__file__).resolve().parents[2]
IMAGES = (*(image.value for image in Image), AIRFLOW)
HEAVY = {
    "data": ("great_expectations",),
    "torch": ("torch",),
    "tensorflow": ("tensorflow",),
    "rollout": ("mlflow",),
    "airflow": ("airflow",),
}
LOCAL_BASE = "localhost/headrace/base:bookworm-1"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
EVERY_HEAVY = [name for names in HEAVY.values() for name in names]


@cache
def built(image: str) -> str:
    """The image's full name; a skip where no image can be made, a failure where none was."""
    if shutil.which("buildah") is None or os.geteuid() != 0:
        pytest.skip("these tests need buildah and root")
    name = f"localhost/headrace/{image}:{image_tag(image)}"
    found = subprocess.run(["buildah", "inspect", "--type", "image", name], capture_output=True)
    if found.returncode != 0:
        pytest.fail(f"no image {name} here: run `make images IMAGES={image}` first")
    return name


def run(image: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "images/run_in_image.sh"), built(image), *command],
        capture_output=True,
        text=True,
        check=False,
    )


def said(image: str, program: str) -> str:
    end = run(image, "python", "-c", program)
    assert end.returncode == 0, end.stdout + end.stderr
    return end.stdout


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_special_on_a_root_that_it_cannot_write(image: str) -> None:
    program = (
        "import os, sys, pathlib; print(os.getuid(), os.getgid(), sys.prefix)\n"
        "for place in ('/', '/opt/venv', '/opt/headrace', '/etc'):\n"
        "    try: pathlib.Path(place, 'x').write_text('x'); print('wrote to', place)\n"
        "    except OSError: pass\n"
        "pathlib.Path('/tmp/x').write_text('x')"
    )
    assert said(image, program).split() == ["10001", "10001", "/opt/venv"]


@pytest.mark.parametrize("image", [image.value for image in Image])
def test_the_entry_point_tells_its_stages(image: str) -> None:
    config = json.loads(
        subprocess.check_output(["buildah", "inspect", "--type", "image", built(image)])
    )["OCIv1"]["config"]
    assert (config["User"], config["Entrypoint"]) == ("10001:10001", ["python", "-m", "tasks"])
    end = run(image, *config["Entrypoint"], "--help")
    assert end.returncode == 0, end.stderr
    assert all(stage.value in end.stdout for stage in Stage)


@pytest.mark.parametrize("image", [image.value for image in Image])
def test_every_module_that_a_stage_can_reach_is_there_with_what_it_imports(image: str) -> None:
    modules = {
        name for stage in stages_of(Image(image)) for name in modules_reached(_module(stage))
    }
    program = f"import importlib\nfor name in {sorted(modules)}: importlib.import_module(name)"
    assert said(image, program) == ""


@pytest.mark.parametrize("image", [image.value for image in STARTED])
def test_what_else_is_started_in_an_image_can_be_imported_there(image: str) -> None:
    program = (
        f"import importlib\nfor name in {STARTED[Image(image)]}: importlib.import_module(name)"
    )
    assert said(image, program) == ""


def _module(stage: Stage) -> str:
    return f"tasks.stages.{stage.value}"


@pytest.mark.parametrize("image", IMAGES)
def test_the_code_in_the_image_is_that_of_the_checkout(image: str) -> None:
    program = (
        "from tasks.contracts.code_digest import PACKAGE, code_digest\n"
        "from tasks.contracts.stages import Stage\n"
        "from tasks.contracts.image_tags import image_tag\n"
        f"print(PACKAGE, image_tag({image!r}))\n"
        "for stage in Stage: print(code_digest(stage))"
    )
    expected = ["/opt/headrace/tasks", image_tag(image), *(code_digest(stage) for stage in Stage)]
    assert said(image, program).split() == expected


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_installed_is_the_lock_and_our_own_wheel(image: str) -> None:
    program = (
        "from importlib.metadata import distributions\n"
        "for item in distributions(): print(f\"{item.metadata['Name']}=={item.version}\")"
    )
    lock = (ROOT / f"requirements/{image}.lock").read_text().split()
    expected = {_plain(line) for line in lock} | {"headrace==0.1.0"}
    assert {_plain(line) for line in said(image, program).split()} == expected


def _plain(pin: str) -> str:
    name, _, version = pin.partition("==")
    return f"{name.lower().replace('_', '-').replace('.', '-')}=={version.partition('+')[0]}"


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_its_own_heavy_dependency_and_no_other(image: str) -> None:
    program = (
        "from importlib.util import find_spec\n"
        f"print(*[name for name in {EVERY_HEAVY} if find_spec(name)])"
    )
    assert tuple(said(image, program).split()) == HEAVY[image]


def test_a_build_that_would_take_cuda_into_a_cpu_image_fails(tmp_path: Path) -> None:
    built("torch")
    shutil.copytree(ROOT / "images", tmp_path / "images")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    lock = tmp_path / "requirements/torch.lock"
    lock.write_text(f"{lock.read_text()}nvidia-nccl-cu13==2.30.7\n")
    base = os.environ.get("BASE") or LOCAL_BASE
    words = f"""buildah build --isolation chroot --network host --layers --target environment
        --volume {AUTHORITIES}:{AUTHORITIES}:ro --build-arg BASE={base}
        --build-arg BASE_DIGEST={os.environ.get("BASE_DIGEST", "")} -f images/torch/Dockerfile ."""
    end = subprocess.run(
        words.split(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert end.returncode != 0, end.stdout
    refusal = "/build/torch.lock: expected no CUDA in a CPU image, found 1 packages of it: "
    assert f"{refusal}nvidia-nccl-cu13==2.30.7;" in end.stderr


@pytest.mark.parametrize("image", IMAGES)
def test_no_bytecode_is_left_to_make_at_the_first_import(image: str) -> None:
    program = (
        "import pathlib, importlib.util as util\n"
        "files = pathlib.Path('/opt/headrace').rglob('*.py')\n"
        "print(*[file for file in files if 'dags' not in file.parts and 'plugins' not in file.parts"
        " and not pathlib.Path(util.cache_from_source(file)).is_file()])"
    )
    assert said(image, program).strip() == ""


def test_airflow_reads_our_dags_and_our_plugin_in_its_image() -> None:
    program = (
        "from airflow.dag_processing.dagbag import DagBag\n"
        "from airflow import plugins_manager\n"
        "bag = DagBag('/opt/headrace/dags')\n"
        "assert not bag.import_errors, bag.import_errors\n"
        "print('found', *sorted(bag.dags))"
    )
    settings = {
        "AIRFLOW_HOME": "/tmp/airflow",
        "HEADRACE_RUNTIME": "local",
        "HEADRACE_STORE": "file:///tmp/store",
        "HEADRACE_STATE": "/tmp/state",
    }
    words = [f"{name}={value}" for name, value in settings.items()]
    end = run(AIRFLOW, *words, "python", "-c", program)
    assert end.returncode == 0, end.stdout + end.stderr
    (line,) = [line for line in end.stdout.splitlines() if line.startswith("found ")]
    assert line.split()[1:] == sorted(dag.stem for dag in (ROOT / "dags").glob("*.py"))
    plugins = run(AIRFLOW, *words, "airflow", "plugins", "--output", "json")
    assert "headrace" in plugins.stdout, plugins.stdout + plugins.stderr
