"""Where and how the pods of this deployment run: HEADRACE_* variables, refused if missing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.contracts.errors import BadRequestError
from tasks.contracts.image_tags import image_tag
from tasks.contracts.stages import STAGE_FACTS, Stage

GROUP_SECONDS = 600.0
IMAGE, TAG = "{image}", "{tag}"
_IMAGES = re.compile(r"(?:[^{}@]|\{image\})+(?:@[^{}@]+|:(?P<tag>(?:[^{}@:/]|\{image\}|\{tag\})+))")
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class PodSettings:
    """What every pod of one deployment has in common."""

    namespace: str
    images: str  # name of an image with {image} and {tag} in it, or a tag for all; never `latest`
    template: Path | None  # pod template (YAML): volumes, secrets, pull secrets of this cluster
    deferrable: bool
    queue_seconds: float  # without a node, behind a gate, outside a quota
    start_seconds: float  # on a node, before the stage runs
    poll_seconds: float
    disruptions: int  # in a row, before the user's retries are touched
    group_seconds: float = GROUP_SECONDS  # some pods of a group have nodes, others wait for one

    def image(self, name: str) -> str:
        """Return the name of one of the images, such as `torch-cuda`; {tag} is not filled in yet."""
        return self.images.replace(IMAGE, name)


def with_tag(image: str, stage: Stage) -> str:
    """Fill in {tag}: the digest of the image's code that `make images` names its images by.

    It is worked out when a pod is made, for reading the sources costs more than a parse may.
    """
    if TAG not in image:
        return image
    return image.replace(TAG, image_tag(STAGE_FACTS[stage].image.value))


def read_pod_settings(environment: Mapping[str, str]) -> PodSettings:
    """Read what the kubernetes runtime needs in addition."""
    template = environment.get("HEADRACE_POD_TEMPLATE") or None
    if template is not None and not Path(template).is_file():
        message = f"HEADRACE_POD_TEMPLATE: expected a YAML file, found none at {template}"
        raise BadRequestError(message)
    return PodSettings(
        namespace=_demanded(environment, "HEADRACE_NAMESPACE", "the namespace of the pods"),
        images=_images(environment),
        template=None if template is None else Path(template),
        deferrable=_boolean(environment, "HEADRACE_DEFERRABLE", default=True),
        queue_seconds=_number(environment, "HEADRACE_QUEUE_SECONDS", 24 * 3600),
        start_seconds=_number(environment, "HEADRACE_START_SECONDS", 900),
        poll_seconds=_number(environment, "HEADRACE_POLL_SECONDS", 2),
        disruptions=int(_number(environment, "HEADRACE_DISRUPTIONS", 10)),
        group_seconds=_number(environment, "HEADRACE_GROUP_SECONDS", GROUP_SECONDS),
    )


def _images(environment: Mapping[str, str]) -> str:
    name = "HEADRACE_IMAGES"
    images = _demanded(environment, name, "a name such as registry/headrace-{image}:{tag}")
    found = _IMAGES.fullmatch(images)
    if found is None or IMAGE not in images or found["tag"] == "latest":
        message = (
            f"{name}: expected a name with {IMAGE} in it and the tag {TAG}, or a tag or "
            f"digest other than latest, such as registry/headrace-{IMAGE}:{TAG}, found {images!r}"
        )
        raise BadRequestError(message)
    return images


def _demanded(environment: Mapping[str, str], name: str, expected: str) -> str:
    value = environment.get(name, "")
    if not value:
        message = (
            f"{name}: expected {expected}, found nothing; HEADRACE_RUNTIME=kubernetes needs it"
        )
        raise BadRequestError(message)
    return value


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        message = f"{name}: expected a number over 0, found {text!r}"
        raise BadRequestError(message)
    return value


def _boolean(environment: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = environment.get(name) or str(default)
    if text.lower() not in _BOOLEANS:
        message = f"{name}: expected true or false, found {text!r}"
        raise BadRequestError(message)
    return _BOOLEANS[text.lower()]
