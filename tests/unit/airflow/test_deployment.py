from __future__ import annotations

from pathlib import Path

import pytest
from headrace_airflow.deployment import Runtime, read_deployment

from tasks.contracts.errors import BadRequestError

GOOD = {
    "HEADRACE_RUNTIME": "local",
    "HEADRACE_STORE": "file:///srv/store/",
    "HEADRACE_STATE": "/srv/state",
}


def test_the_deployment_is_read_from_the_environment() -> None:
    found = read_deployment(GOOD | {"HEADRACE_PYTHON": "/opt/python"})
    assert found.runtime is Runtime.LOCAL
    assert found.store_url == "file:///srv/store"
    assert (found.state_dir, found.python) == (Path("/srv/state"), Path("/opt/python"))
    assert (found.stage_path / "tasks" / "__main__.py").is_file()


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_missing_variable_is_refused_by_name(name: str) -> None:
    lacking = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(BadRequestError, match=f"{name}: expected .*, found nothing"):
        read_deployment(lacking)


@pytest.mark.parametrize(
    ("name", "value"),
    (
        pytest.param("HEADRACE_RUNTIME", "docker", id="a runtime that does not exist"),
        pytest.param("HEADRACE_STORE", "/srv/store", id="a store that is no URL"),
    ),
)
def test_a_wrong_variable_is_refused(name: str, value: str) -> None:
    with pytest.raises(BadRequestError, match=value):
        read_deployment(GOOD | {name: value})
