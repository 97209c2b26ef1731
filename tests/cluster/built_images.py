"""The images that `make images` builds of the code that lies here, and how a cluster gets them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts.image_tags import image_tag
from tasks.contracts.stages import Image
from tests.cluster.kubernetes_world import load_archive, the_kit

BUILT = "localhost/headrace/{image}:{tag}"
STAGES = tuple(image.value for image in Image)
AT_ONCE = 2  # one is written out of buildah's store while the node unpacks the other


def image_names() -> str:
    """Return what Airflow gets as HEADRACE_IMAGES: this environment's, or what is built here."""
    return os.environ.get("HEADRACE_IMAGES", BUILT)


def image_name(image: str) -> str:
    """Return the name of an image of this code."""
    return image_names().replace("{image}", image).replace("{tag}", image_tag(image))


def demand_images(images: Collection[str] = STAGES) -> None:
    """Skip where these images of this code are neither built here nor named."""
    if "HEADRACE_IMAGES" in os.environ:
        return
    for image in images:
        name = image_name(image)
        try:
            found = subprocess.run(
                ["buildah", "inspect", "--type", "image", name], capture_output=True
            ).returncode
        except FileNotFoundError:
            found = 1
        if found != 0:
            pytest.skip(
                f"no image {name} here: run `make images IMAGES={image}` first, or set "
                "HEADRACE_IMAGES to images of this code that the cluster can pull"
            )


def load_images(core: Any, folder: Path, images: Collection[str] = STAGES) -> None:
    """Load those that the node does not have yet and cannot pull."""
    if "HEADRACE_IMAGES" in os.environ:
        return
    assert the_kit() is not None, "set HEADRACE_K8S_KIT or HEADRACE_IMAGES: docs/runbooks/pods.md"
    (node,) = core.list_node().items
    there = {name for image in node.status.images or [] for name in image.names or []}
    missing = [name for name in map(image_name, images) if name not in there]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for loaded in [pool.submit(_load, name, folder) for name in missing]:
            loaded.result()


def _load(name: str, folder: Path) -> None:
    archive = folder / f"{name.rpartition(':')[2]}.tar"  # no colon: it ends a path for buildah
    started = time.monotonic()
    push = ["buildah", "push", "-q", name, f"docker-archive:{archive}:{name}"]
    subprocess.run(push, check=True, capture_output=True)
    load_archive(archive)
    archive.unlink()
    print(f"{name} loaded in {time.monotonic() - started:.0f} s")
