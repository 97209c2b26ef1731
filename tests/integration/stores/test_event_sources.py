"""A shop's own events in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.adapters.object_store import ObjectStore
from tasks.contracts.errors import BadRequestError
from tasks.events.sources import digest, fetch, url_sources
from tests.integration.stores.conftest import KEY_ID, SECRET
from tests.integration.stores.faulty_proxy import FORBID, FORBIDDEN, Plan


def test_one_file_is_read_by_its_key(s3_url: str, plan: Plan, tmp_path: Path) -> None:
    ObjectStore(s3_url).replace("events.parquet", b"rows")
    with plan.doing(lambda *_: None):
        (source,) = url_sources(f"{s3_url}/events.parquet", "events_url")
        path, found = fetch(source, tmp_path)
        assert plan.listings == []
    assert (path.read_bytes(), found.bytes) == (b"rows", 4)
    assert digest(source) == found
    assert source.url == f"{s3_url}/events.parquet"


def test_many_files_are_read_by_a_pattern(s3_url: str, tmp_path: Path) -> None:
    store = ObjectStore(s3_url)
    for name in ("b", "a"):
        store.replace(f"events/{name}.parquet", name.encode())
    store.replace("events/readme.txt", b"text")
    sources = url_sources(f"{s3_url}/events/*.parquet", "events_url")
    assert [source.name for source in sources] == ["a.parquet", "b.parquet"]
    assert [fetch(source, tmp_path)[0].read_bytes() for source in sources] == [b"a", b"b"]


def test_a_bucket_that_refuses_is_a_bad_request_without_a_credential(
    s3_url: str, plan: Plan
) -> None:
    plan.forbidden = FORBIDDEN.format(code="AccessDenied", key_id=KEY_ID, secret=SECRET)
    with plan.doing(lambda *_: FORBID), pytest.raises(BadRequestError) as refused:
        url_sources(f"{s3_url}/events/*.parquet", "events_url")
    assert "events_url: expected" in str(refused.value)
    assert KEY_ID not in str(refused.value)
    assert SECRET not in str(refused.value)
