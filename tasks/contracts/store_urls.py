"""URLs that may be written down: no credentials inside; and how fsspec opens a store's URL."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tasks.contracts.errors import BadRequestError

CONNECT_SECONDS = 5
READ_SECONDS = 30
# Names of query parameters that carry a secret: presigned S3 and GCS URLs, Azure SAS, tokens.
_SECRET_WORDS = ("signature", "credential", "token", "secret", "password", "apikey", "api_key")
_SECRET_NAMES = frozenset(
    {"sig", "sas", "key", "auth", "authorization", "pwd", "awsaccesskeyid", "googleaccessid"}
)

# Requests are retried in one place (tasks.adapters.s3_patience), so botocore does not; one stream
# a file keeps memory small and reads an object without asking (or listing) for it first.
_OPTIONS: MappingProxyType[str, MappingProxyType[str, Any]] = MappingProxyType(
    {
        "s3": MappingProxyType(
            {
                "config_kwargs": {
                    "retries": {"total_max_attempts": 1},
                    "connect_timeout": CONNECT_SECONDS,
                    "read_timeout": READ_SECONDS,
                },
                "max_concurrency": 1,
                "use_listings_cache": False,
            }
        )
    }
)


def fsspec_options(url: str) -> dict[str, Any]:
    """Return the options with which every part of Headrace opens a store of this scheme."""
    return dict(_OPTIONS.get(urlsplit(url).scheme, {}))


def holds_credentials(url: str) -> bool:
    """Return whether a URL carries a user name, a password, a token or a signature."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        return True
    named = parse_qsl(f"{parts.query}&{parts.fragment}", keep_blank_values=True)
    return any(_is_secret(name) for name, _ in named)


def demand_no_credentials(url: str, what: str) -> str:
    """Return the URL; one with credentials is refused without repeating them."""
    if not holds_credentials(url):
        return url
    message = (
        f"{what}: expected a URL without credentials, found some in {without_credentials(url)!r} "
        "(left out here); URLs are written into manifests and logs: give credentials by the "
        "environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS) or a role"
    )
    raise BadRequestError(message)


def without_credentials(url: str) -> str:
    """Return the URL as it may be shown: without user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()[:200]


def _is_secret(name: str) -> bool:
    plain = name.lower().replace("-", "_")
    return plain in _SECRET_NAMES or any(word in plain for word in _SECRET_WORDS)
