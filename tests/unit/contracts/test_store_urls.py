from __future__ import annotations

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.contracts.store_urls import demand_no_credentials, without_credentials

HARMLESS = (
    "",
    "/data/events.parquet",
    "data/user@home/events.parquet",
    "file:///data/events.parquet",
    "s3://bucket/events/*.parquet",
    "gs://bucket/day=2026-01-01/events.csv",
    "http://host/events.csv?versionId=3&monkey=1&author=ann",
)
WITH_SECRETS = (
    "s3://AKIAX:hunter2@bucket/events.parquet",
    "http://hunter2@host/events.csv",
    "https://host/e.csv?X-Amz-Signature=hunter2",
    "https://host/e.csv?page=2&sig=hunter2",
    "https://host/e.csv?sas=hunter2",
    "https://host/e.csv?auth=hunter2",
    "https://host/e.csv?x-goog-credential=hunter2",
    "https://host/e.csv#access_token=hunter2",
)


@pytest.mark.parametrize("url", HARMLESS)
def test_a_url_without_credentials_is_let_through_as_it_is(url: str) -> None:
    assert demand_no_credentials(url, "events_url") == url


@pytest.mark.parametrize("url", WITH_SECRETS)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        demand_no_credentials(url, "events_url")
    said = str(refused.value)
    assert said.startswith("events_url: expected a URL without credentials, found some in ")
    assert "hunter2" not in said
    assert "AKIAX" not in said


def test_what_is_shown_of_a_url_says_where_it_leads() -> None:
    shown = without_credentials("s3://AKIAX:hunter2@bucket/e.csv?sig=x#token=y")
    assert shown == "s3://bucket/e.csv"
