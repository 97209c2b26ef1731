"""`headrace shadow`: where it listens, and what cannot work.

It listens in processes of its own in tests/integration/rollout: after a gRPC server no test may fork.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.cli import shadow
from tasks.contracts.errors import BadRequestError
from tests.fake_kubernetes import kubeconfig

WORDS = ["--state-dir", "/nowhere", "--port", "1", "--grpc-port", "2"]


def test_it_binds_loopback_unless_told_otherwise() -> None:
    assert shadow.parser_of_shadow().parse_args(WORDS).host == "127.0.0.1"
    told = shadow.parser_of_shadow().parse_args([*WORDS, "--host", "0.0.0.0"])
    assert told.host == shadow.EVERY_ADDRESS


CLUSTER = {"HEADRACE_ROLLOUT_STATE": "configmap://prod", "HEADRACE_MODELS": "shop"}


@pytest.mark.parametrize(
    ("environment", "sentence"),
    (
        pytest.param(
            {"HEADRACE_MODELS": ""},
            "HEADRACE_MODELS: expected the models of this shadow with commas, found none",
            id="no model",
        ),
        pytest.param(
            {"HEADRACE_SLOT_HOST": "headrace-{model}.svc"},
            "HEADRACE_SLOT_HOST: expected a host name with {model} and {colour}",
            id="one host for three slots",
        ),
    ),
)
def test_what_cannot_work_is_said_at_the_start(
    environment: dict[str, str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config", "http://127.0.0.1:1")))
    for name, value in {**CLUSTER, **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadRequestError) as told:
        shadow.main(WORDS)
    assert sentence in str(told.value)
