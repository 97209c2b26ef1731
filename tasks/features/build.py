"""The whole feature set of one payload of validated events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.contracts.json_types import Json, pretty_json
from tasks.contracts.stage_io import SayProgress
from tasks.features.event_log import connect, open_event_log
from tasks.features.profile import profile_interactions
from tasks.features.sequences import build_interactions
from tasks.features.settings import FeatureSettings
from tasks.features.user_profiles import define_profiles, describe_profiles
from tasks.features.vocabulary import (
    build_users,
    build_vocabulary,
    coverage_by_min_count,
    train_counts,
)
from tasks.models.interactions import Interactions
from tasks.models.profile_definition import PROFILE_DEFINITION_FILE, ProfileDefinition

INTERACTIONS_FILE = "interactions.npz"
ITEMS_FILE = "items.parquet"
USERS_FILE = "users.parquet"
PROFILE_FILE = "profile.json"


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """Features in memory."""

    interactions: Interactions
    items: pa.Table
    users: pa.Table
    profile: dict[str, Json]
    profiles: ProfileDefinition

    def write(self, out: Path) -> None:
        """Write the payload below `out`."""
        self.interactions.save(out / INTERACTIONS_FILE)
        self.profiles.save(out / PROFILE_DEFINITION_FILE)
        pq.write_table(self.items, out / ITEMS_FILE, compression="zstd")
        pq.write_table(self.users, out / USERS_FILE, compression="zstd")
        (out / PROFILE_FILE).write_text(pretty_json(self.profile), encoding="utf-8")


def build_feature_set(
    events: Path, settings: FeatureSettings, spill: Path, progress: SayProgress
) -> FeatureSet:
    """Build features from the folder `events`; `spill` is for tables larger than memory."""
    connection = connect(spill)
    log = open_event_log(connection, events)
    progress("counting items of the train period", 0.0)
    items = build_vocabulary(connection, log, settings)
    users = build_users(connection, log.events)
    coverage = coverage_by_min_count(connection, log.events)
    seen = int(connection.to_pyarrow(train_counts(log.events).count()).as_py())
    progress(f"sequences of {len(users)} users on {len(items)} items", 0.3)
    interactions = build_interactions(connection, log, items, users)
    progress("profile of the features", 0.8)
    profiles = define_profiles(connection, log, items, interactions, settings)
    profile: dict[str, Json] = {
        "format": "features_profile/1",
        "dataset": log.dataset,
        "settings": settings.to_json(),
        "items_in_train": seen,
        "coverage_by_min_count": [dict(row) for row in coverage],
        **profile_interactions(interactions),
        "user_profiles": describe_profiles(profiles),
    }
    return FeatureSet(
        interactions=interactions, items=items, users=users, profile=profile, profiles=profiles
    )
