from __future__ import annotations

import pytest

from tasks.contracts.credentials import without_given_credentials

KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalr+XUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
GIVEN = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}


@pytest.mark.parametrize(
    ("said", "told"),
    (
        pytest.param(
            f"{KEY_ID} may not write",
            "<AWS_ACCESS_KEY_ID> may not write",
            id="the key id of the environment",
        ),
        pytest.param(
            f"signed with {SECRET}, refused",
            "signed with <AWS_SECRET_ACCESS_KEY>, refused",
            id="its secret",
        ),
        pytest.param(
            "?s=wJalr%2BXUtnFEMI%2FK7MDENG%2FbPxRfiCYEXAMPLEKEY&x=1",
            "?s=<AWS_SECRET_ACCESS_KEY>&x=1",
            id="its secret in a URL",
        ),
        pytest.param(
            "user ASIAIOSFODNN7ANOTHER of a role",
            "user <a key id> of a role",
            id="a key id that stands in no variable",
        ),
        pytest.param(
            "GET /b/k?X-Amz-Date=2026&X-Amz-Signature=0a1b2c&x=1",
            "GET /b/k?X-Amz-Date=2026&X-Amz-Signature=<left out>&x=1",
            id="a signature",
        ),
        pytest.param(
            "cannot connect to https://ann:pass@minio:9000/b",
            "cannot connect to https://minio:9000/b",
            id="the user of an address",
        ),
        pytest.param(
            "bucket AKIA of key-123 at s3://b/k: Access Denied",
            "bucket AKIA of key-123 at s3://b/k: Access Denied",
            id="ordinary words stay",
        ),
    ),
)
def test_what_was_given_is_left_out_and_the_rest_stays(said: str, told: str) -> None:
    assert without_given_credentials(said, GIVEN) == told


def test_a_value_too_short_for_a_credential_tears_no_holes() -> None:
    assert without_given_credentials("a test of a key", {"AWS_SECRET_ACCESS_KEY": "test"}) == (
        "a test of a key"
    )
