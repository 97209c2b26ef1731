"""ModelServerConfig: what it may say (server_core.cc) and what follows from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tasks.serving.base_path import (
    AllVersions,
    LatestVersions,
    SpecificVersions,
    VersionChoice,
    WatchedModel,
)
from tasks.serving.protos import ParseError, parse_text, server_config
from tasks.serving.status import ServingError, invalid_argument

PLATFORM = "tensorflow"
MODEL_TYPE_TENSORFLOW = 1
_URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def single_model_config(name: str, base_path: str) -> Any:
    """Return the config that `--model_name` and `--model_base_path` stand for."""
    config = server_config.ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=PLATFORM)
    return config


def read_config_file(path: str) -> Any:
    """Return the ModelServerConfig in a text file."""
    return read_text_proto(path, server_config.ModelServerConfig())


def read_text_proto(path: str, message: Any) -> Any:
    """Fill `message` from a text-format file; errors name the file and the message type."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        detail = f"{path}; {error.strerror}"
        raise invalid_argument(detail) from error
    try:
        return parse_text(text, message)
    except ParseError as error:
        kind = message.DESCRIPTOR.full_name
        detail = f"Error parsing text-format {kind}: {path}: {error}"
        raise invalid_argument(detail) from error


def platform_of(model: Any) -> str:
    """Return the platform of a ModelConfig; the deprecated model_type may say it instead."""
    if model.model_type == 0:
        if model.model_platform:
            return str(model.model_platform)
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if model.model_platform:
        raise invalid_argument(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if model.model_type == MODEL_TYPE_TENSORFLOW:
        return PLATFORM
    raise invalid_argument(
        f"ModelServerConfig::model_type choice {model.model_type} not supported."
    )


def check_models(models: Any) -> None:
    """Refuse duplicate names and relative base paths."""
    seen: set[str] = set()
    for model in models:
        if model.name in seen:
            raise invalid_argument(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        seen.add(model.name)
    for model in models:
        if not model.base_path.startswith("/") and not _URI.match(model.base_path):
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got "
                f"base_path()={model.base_path}"
            )


def check_no_platform_change(old_models: Any, new_models: Any) -> None:
    """Refuse another platform under a known name. A bad stored config makes this fail for ever."""
    platforms = {model.name: platform_of(model) for model in old_models}
    for model in new_models:
        old = platforms.get(model.name)
        if old is None:
            continue
        new = platform_of(model)
        if new != old:
            raise invalid_argument(
                f"Illegal to change a model's platform. For model {model.name} platform was "
                f"{old} and new platform requested is {new}"
            )


def check_platforms_supported(models: Any) -> None:
    """Refuse every platform but tensorflow."""
    for model in models:
        platform = platform_of(model)
        if platform != PLATFORM:
            raise invalid_argument(f"Model {model.name} requests unsupported platform {platform}")


def _choice(policy: Any) -> VersionChoice:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return AllVersions()
        case "specific":
            return SpecificVersions(versions=frozenset(policy.specific.versions))
        case _:
            return LatestVersions(count=max(policy.latest.num_versions, 1))


def watched_models(models: Any) -> list[WatchedModel]:
    """Return what the file system source has to watch."""
    return [
        WatchedModel(
            name=model.name,
            base_path=Path(model.base_path),
            choice=_choice(model.model_version_policy),
        )
        for model in models
    ]


def unsupported_logging(models: Any) -> ServingError | None:
    """Return the error for request logging, which the open-source server does not have either."""
    if any(model.HasField("logging_config") for model in models):
        return invalid_argument("No request-logger-creator provided.")
    return None
