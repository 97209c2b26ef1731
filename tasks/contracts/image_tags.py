"""An image's tag is the code in it: Airflow and `make images` work it out alike, from the files.

`python -m tasks.contracts.image_tags IMAGE` prints the tag, `--table` the table of images/README.md.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from functools import cache

from tasks.contracts.code_digest import (
    PACKAGE,
    code_digest,
    lock_of,
    modules_reached,
    source_of,
)
from tasks.contracts.errors import BadRequestError
from tasks.contracts.stages import STAGE_FACTS, Image, Stage

AIRFLOW = "airflow"  # an image without a stage
TAG_CHARACTERS = 16
# What else a container of an image is started with: of a stage's code digest it is no part.
RUNNER = "tasks.__main__"
STARTED = {
    Image.TORCH: ("tasks.training.launch",),
    Image.TENSORFLOW: ("tasks.serving.server", "tasks.cli.shadow"),
    Image.ROLLOUT: ("tasks.cli.keeper", "tasks.cli.envoy"),
}


def stages_of(image: Image) -> tuple[Stage, ...]:
    """Return the stages that run in the image, in pipeline order."""
    return tuple(stage for stage in Stage if STAGE_FACTS[stage].image is image)


def image_tag(image: str) -> str:
    """Return the tag: a digest over the code of all that starts in the image, or Airflow's files."""
    if image == AIRFLOW:
        digest = _airflow_digest()
    elif image in set(Image):
        digests = [_digest_where_its_code_is(stage) for stage in stages_of(Image(image))]
        digests += [_digest_from(start) for start in (RUNNER, *STARTED.get(Image(image), ()))]
        digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    else:
        known = [*(one.value for one in Image), AIRFLOW]
        message = f"image: expected one of {known}, found {image!r:.60}"
        raise BadRequestError(message)
    return digest[:TAG_CHARACTERS]


def _digest_where_its_code_is(stage: Stage) -> str:
    _demand_code(f"tasks.stages.{stage.value}")
    return code_digest(stage)


@cache
def _digest_from(start: str) -> str:
    """Digest what a module and all that it may import say."""
    _demand_code(start)
    digest = hashlib.sha256()
    for module in modules_reached(start):
        source = source_of(module)
        if source is not None:
            digest.update(f"{module}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()


def _demand_code(module: str) -> None:
    if source_of(module) is None:
        message = (
            f"image tag: expected {module.replace('.', '/')}.py in {PACKAGE.parent}, found none; "
            "install the whole wheel beside Airflow, or name a tag in HEADRACE_IMAGES"
        )
        raise BadRequestError(message)


def _airflow_digest() -> str:
    """Digest what lies beside `tasks/` in a checkout as in the image: plugin, DAGs, contracts."""
    beside = PACKAGE.parent
    plugins = beside / "plugins" / "headrace_airflow"
    roots = {
        "dags": beside / "dags",
        "headrace_airflow": plugins if plugins.is_dir() else beside / "headrace_airflow",
        "contracts": PACKAGE / "contracts",
    }
    digest = hashlib.sha256()
    for name, root in roots.items():
        for file in sorted(root.rglob("*.py")):
            digest.update(f"{name}/{file.relative_to(root).as_posix()}\0".encode())
            digest.update(file.read_bytes() + b"\0")
    locks = lock_of(Image.ROLLOUT).parent  # all locks lie together
    digest.update((locks / f"{AIRFLOW}.lock").read_bytes())
    return digest.hexdigest()


def image_table() -> str:
    """Return the Markdown table image -> lock -> stages, made from STAGE_FACTS."""
    rows = ["| image | lock | stages |", "|---|---|---|"]
    for image in Image:
        stages = ", ".join(f"`{stage.value}`" for stage in stages_of(image))
        rows.append(f"| `{image.value}` | `requirements/{image.value}.lock` | {stages} |")
    rows.append(f"| `{AIRFLOW}` | `requirements/{AIRFLOW}.lock` | none: Airflow's own components |")
    return "\n".join(rows) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Print a tag or the table."""
    if list(arguments) == ["--table"]:
        print(image_table(), end="")
        return 0
    try:
        (image,) = arguments
        print(image_tag(image))
    except (ValueError, BadRequestError) as error:
        print(f"{error}; usage: image_tags IMAGE | --table", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
