"""Commands of docs/runbooks/platform.md as they stand there, run with the names of a test's deployment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.cluster.chart_world import ROOT, ChartWorld

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands_below(heading: str) -> list[str]:
    """Return the commands of each block below a bold heading, up to the next."""
    text = (ROOT / "docs/runbooks/platform.md").read_text().partition(heading)[2]
    blocks = _BLOCK.findall(text.partition("\n**")[0])
    return [re.sub(r"^\$ ", "", block, flags=re.MULTILINE) for block in blocks]


def play(world: ChartWorld, commands: str, *, refused: bool = False) -> str:
    """Run a block with this deployment's namespace and store; return what it said."""
    here = commands.replace("configmap://shop", f"configmap://{world.namespace}")
    here = here.replace("-n shop", f"-n {world.namespace}")
    here = here.replace("s3://bucket/prefix", world.store_url)
    folders = (Path(sys.executable).parent, Path(world.kubectl_path).parent, os.environ["PATH"])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", here],
        cwd=world.folder,
        env={
            **os.environ,
            "PATH": os.pathsep.join(map(str, folders)),
            "HEADRACE_STORE": world.store_url,
            "HEADRACE_HOME": str(world.folder / "home"),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode != 0) is refused, done.stdout + done.stderr
    return done.stdout + done.stderr
