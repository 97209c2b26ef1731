"""A kubeconfig that is none is refused with what was found in it, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.adapters.kube_api import find_server
from tasks.contracts.errors import BadRequestError

GOOD = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: one, user: me}}]
clusters: [{name: one, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: me, user: {token: secret}}]
"""


def test_a_kubeconfigs_server_is_found(tmp_path: Path):
    path = tmp_path / "config"
    path.write_text(GOOD)

    assert find_server({"KUBECONFIG": str(path)}).host == "https://127.0.0.1:1"


@pytest.mark.parametrize(
    ("text", "said"),
    (
        (None, "No configuration found"),
        ("", "is empty"),
        ("\x00{{{", "unacceptable character"),
        ("- a\n- b\n", "indices must be integers"),
        ("hello", "does not support item assignment"),
        ("5", "does not support item assignment"),
        ("current-context: a\ncontexts: 5\n", "not iterable"),
        (GOOD.replace("current-context: here", "current-context: there"), "name there"),
        (
            GOOD.replace("{server:", "{certificate-authority: /nowhere/ca.crt, server:"),
            "/nowhere/ca.crt",
        ),
    ),
    ids=[
        "missing",
        "empty",
        "garbage",
        "list",
        "text",
        "number",
        "contexts",
        "context",
        "authority",
    ],
)
def test_what_is_no_kubeconfig_is_refused_in_one_line(tmp_path: Path, text: str | None, said: str):
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)

    with pytest.raises(BadRequestError) as refused:
        find_server({"KUBECONFIG": str(path)})

    sentence = str(refused.value)
    assert said in sentence
    assert str(path) in sentence
    assert "set KUBECONFIG" in sentence
    assert "\n" not in sentence
    assert "secret" not in sentence
