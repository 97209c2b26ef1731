"""What this process was given to open stores with is never written down, not even in an error.

Servers answer with more than they should: some repeat the key id, or the request that was signed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import quote

# Their values are left out wherever they turn up.
GIVEN_BY = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SHORTEST = 8  # a shorter value is no credential, and would tear holes into ordinary words
# Those of roles and profiles stand in no variable: their key ids are known by their form, what
# was signed with them by its name, and users of an address by their place.
_KNOWN_BY_FORM = (
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "<a key id>"),
    (
        re.compile(r"(?i)\b(x-amz-(?:signature|credential|security-token)=)[^&\s\"'<>]+"),
        r"\1<left out>",
    ),
    (re.compile(r"(://)[^/\s@:]+:[^/\s@]+@"), r"\1"),
)


def without_given_credentials(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return `text` with every credential of this process replaced by where it was given."""
    for name in GIVEN_BY:
        value = environment.get(name, "")
        if len(value) >= SHORTEST:
            for form in (value, quote(value, safe="")):
                text = text.replace(form, f"<{name}>")
    for pattern, instead in _KNOWN_BY_FORM:
        text = pattern.sub(instead, text)
    return text
