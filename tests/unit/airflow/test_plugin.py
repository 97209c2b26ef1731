from __future__ import annotations

from pathlib import Path

from airflow._shared.module_loading import find_path_from_directory
from headrace_airflow.plugin import HeadracePlugin
from headrace_airflow.pod_profiles import POD_PROFILES, image_of

from tasks.contracts.stages import Stage

PLUGINS = Path(__file__).resolve().parents[3] / "plugins"


def test_airflow_executes_only_the_registration() -> None:
    found = find_path_from_directory(str(PLUGINS), ".airflowignore", "glob")
    python = [Path(path).name for path in found if path.endswith(".py")]
    assert python == ["plugin.py"]


def test_the_pages_have_one_prefix() -> None:
    assert [app["url_prefix"] for app in HeadracePlugin.fastapi_apps] == ["/headrace"]


def test_every_stage_has_a_profile_and_an_image() -> None:
    assert list(POD_PROFILES) == list(Stage)
    assert all(image_of(stage) for stage in Stage)
