"""In processes of their own: what has been imported matters here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def run(code: str) -> str:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_messages_and_server_load_without_tensorflows_python_package() -> None:
    found = run("import sys, tasks.serving.server; print('tensorflow' in sys.modules)")
    assert found == "False"


@pytest.mark.slow
def test_the_whole_of_tensorflow_can_still_be_imported_afterwards() -> None:
    found = run(
        "from tasks.serving import protos\n"
        "import tensorflow as tf\n"
        "from tensorflow_serving.apis import predict_pb2\n"
        "print(int(tf.constant(3) + 1), predict_pb2 is protos.predict)"
    )
    assert found == "4 True"
