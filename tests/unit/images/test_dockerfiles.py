from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tasks.contracts.code_digest import code_digest
from tasks.contracts.errors import BadRequestError
from tasks.contracts.image_tags import AIRFLOW, image_table, image_tag, stages_of
from tasks.contracts.stages import Image, Stage

ROOT = Path(__file__).resolve().parents[3]
IMAGES = (*(image.value for image in Image), AIRFLOW)
PRINT_DIGESTS = """
from tasks.contracts.code_digest import PACKAGE, code_digest
from tasks.contracts.stages import Stage
print(PACKAGE)
for stage in Stage:
    print(code_digest(stage))
"""


def dockerfile(image: str) -> str:
    return (ROOT / "images" / image / "Dockerfile").read_text()


def test_every_image_has_a_folder_and_every_folder_an_image() -> None:
    assert {path.parent.name for path in (ROOT / "images").glob("*/Dockerfile")} == set(IMAGES)


def test_the_readme_has_the_table_of_the_code() -> None:
    assert image_table() in (ROOT / "images/README.md").read_text()


def test_every_stage_stands_in_the_row_of_one_image() -> None:
    assert sorted(stage for image in Image for stage in stages_of(image)) == sorted(Stage)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_made_of_its_own_lock_and_runs_as_nobody_special(image: str) -> None:
    text = dockerfile(image)
    locks = set(re.findall(r"requirements/([a-z-]+)\.lock", text))
    assert locks - {"torch-cuda"} == {image}
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["10001:10001"]
    last = text[text.rindex("\nFROM ") :]
    assert not re.search(r"\b(pip|uv|apt-get|curl)\b", last)  # the runtime gets copies, no tools


@pytest.mark.parametrize("image", IMAGES)
def test_a_base_is_named_once_and_can_be_pinned(image: str) -> None:
    text = dockerfile(image)
    assert re.findall(r"^ARG BASE\S*$", text, re.MULTILINE) == [
        "ARG BASE=docker.io/library/python:3.11-slim-bookworm",
        "ARG BASE_DIGEST=",
    ]
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) - {"environment", "scratch"}
    assert bases == {"${BASE}${BASE_DIGEST:+@${BASE_DIGEST}}"}


def test_all_images_share_their_first_layers() -> None:
    heads = {
        dockerfile(image).split(" AS environment\n")[1].split("\nARG TORCH")[0].split("\nCOPY")[0]
        for image in IMAGES
    }
    assert len(heads) == 1


def test_tags_follow_the_code_and_differ() -> None:
    assert len({image_tag(image) for image in IMAGES}) == len(IMAGES)
    assert all(re.fullmatch(r"[0-9a-f]{16}", image_tag(image)) for image in IMAGES)


@pytest.mark.parametrize(
    ("file", "changed"),
    (
        pytest.param("rollout/keeper.py", {"rollout"}, id="the keeper"),
        pytest.param("cli/envoy.py", {"rollout"}, id="what starts Envoy"),
        pytest.param("serving/rest_server.py", {"tensorflow"}, id="the slots' server"),
        pytest.param("training/launch.py", {"torch"}, id="what starts ranks"),
        pytest.param("__main__.py", set(IMAGES) - {AIRFLOW}, id="what runs every stage"),
    ),
)
def test_whatever_starts_in_an_image_is_part_of_its_tag(
    tmp_path: Path, file: str, changed: set[str]
) -> None:
    for folder in ("tasks", "requirements", "dags", "plugins"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.pyc"))
    with (tmp_path / "tasks" / file).open("a") as source:
        source.write("# changed\n")
    program = (
        "from tasks.contracts.image_tags import image_tag\n"
        f"print(*(image_tag(image) for image in {IMAGES!r}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    tags = dict(zip(IMAGES, out.stdout.split(), strict=True))
    assert {image for image in IMAGES if tags[image] != image_tag(image)} == changed


def test_a_tag_of_no_image_is_refused() -> None:
    with pytest.raises(BadRequestError, match=r"'airflow'\], found 'cuda'"):
        image_tag("cuda")


def test_no_tag_is_made_up_where_the_code_of_the_stages_is_missing(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tasks/contracts", tmp_path / "tasks/contracts")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / "tasks/__init__.py").touch()
    out = subprocess.run(
        [sys.executable, "-m", "tasks.contracts.image_tags", "torch"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (out.returncode, out.stdout) == (4, "")
    assert f"expected tasks/stages/train_model.py in {tmp_path}, found none" in out.stderr


def test_a_stage_has_the_same_digest_in_the_wheel_as_in_the_checkout(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "wheel")
    out = subprocess.run(
        [sys.executable, "-c", PRINT_DIGESTS],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "wheel")},
        capture_output=True,
        text=True,
        check=True,
    )
    where, *digests = out.stdout.split()
    assert where == str(tmp_path / "wheel/tasks")
    assert digests == [code_digest(stage) for stage in Stage]
