from typing import Any

import pytest

from tasks.serving.base_path import AllVersions, LatestVersions, SpecificVersions
from tasks.serving.model_config import (
    check_models,
    check_no_platform_change,
    check_platforms_supported,
    platform_of,
    watched_models,
)
from tasks.serving.protos import parse_text, server_config
from tasks.serving.status import ServingError


def models(text: Any) -> Any:
    config = parse_text(f"model_config_list {{ {text} }}", server_config.ModelServerConfig())
    return config.model_config_list.config


def test_policies_become_choices() -> None:
    found = watched_models(
        models(
            'config { name: "a" base_path: "/a" } '
            'config { name: "b" base_path: "/b" model_version_policy { all {} } } '
            'config { name: "c" base_path: "/c" model_version_policy { specific { versions: 3 } } } '
            'config { name: "d" base_path: "/d" model_version_policy { latest { num_versions: 2 } } }'
        )
    )
    assert [model.choice for model in found] == [
        LatestVersions(count=1),
        AllVersions(),
        SpecificVersions(versions=frozenset({3})),
        LatestVersions(count=2),
    ]


@pytest.mark.parametrize(
    ("check", "text", "error"),
    (
        (
            check_models,
            'config { name: "m" base_path: "/m" } config { name: "m" base_path: "/m" }',
            "Illegal to list model m multiple times in config list",
        ),
        (
            check_models,
            'config { name: "m" base_path: "m" }',
            r"Expected model m to have an absolute path or URI; got base_path\(\)=m",
        ),
        (
            check_platforms_supported,
            'config { name: "m" base_path: "/m" model_platform: "pytorch" }',
            "Model m requests unsupported platform pytorch",
        ),
        (
            check_platforms_supported,
            'config { name: "m" base_path: "/m" }',
            "Illegal setting neither ModelServerConfig::model_type",
        ),
        (
            check_platforms_supported,
            'config { name: "m" model_platform: "tensorflow" model_type: TENSORFLOW }',
            "Illegal setting both ModelServerConfig::model_type",
        ),
    ),
)
def test_a_config_that_cannot_be_served_is_refused(check: Any, text: Any, error: Any) -> None:
    with pytest.raises(ServingError, match=error):
        check(models(text))


def test_a_uri_is_no_relative_path() -> None:
    check_models(models('config { name: "m" base_path: "s3://bucket/m" }'))


def test_the_deprecated_model_type_means_tensorflow() -> None:
    (model,) = models('config { name: "m" model_type: TENSORFLOW }')
    assert platform_of(model) == "tensorflow"


def test_a_platform_never_changes_under_a_name() -> None:
    old = models('config { name: "m" model_platform: "pytorch" }')
    new = models('config { name: "m" model_platform: "tensorflow" }')
    with pytest.raises(ServingError, match="Illegal to change a model's platform"):
        check_no_platform_change(old, new)
    check_no_platform_change(old, models('config { name: "n" model_platform: "tensorflow" }'))
