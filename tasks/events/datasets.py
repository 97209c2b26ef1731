"""The sets Headrace can read: files, reader, kind and periods of each, one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from ibis.backends.duckdb import Backend

from tasks.events.complete_journey import FILES as COMPLETE_JOURNEY_FILES
from tasks.events.complete_journey import PACKAGE, read_complete_journey
from tasks.events.periods import LastSteps, PeriodRule, TimeCuts
from tasks.events.raw_events import RawEvents
from tasks.events.sequences import read_amazon, read_ml_1m
from tasks.events.sources import Source, data_source, package_source
from tasks.events.taobao import PERIODS as TAOBAO_PERIODS
from tasks.events.taobao import read_taobao

FindSources: TypeAlias = Callable[[Mapping[str, str]], tuple[Source, ...]]
ReadEvents: TypeAlias = Callable[[Backend, Sequence[Path]], RawEvents]


@dataclass(frozen=True, kw_only=True)
class SetKind:
    """What a set is, for models: repeats, order without times."""

    repeats_allowed: bool
    order_only: bool


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """How one set is found, read and cut."""

    kind: SetKind
    periods: PeriodRule
    find: FindSources
    read: ReadEvents


def _below_data_folder(how_to_get: str, *files: tuple[str, ...]) -> FindSources:
    """Return a finder of `files`, each given by its possible names."""

    def find(environ: Mapping[str, str]) -> tuple[Source, ...]:
        return tuple(data_source(environ, names, how_to_get) for names in files)

    return find


def _complete_journey_sources(_: Mapping[str, str]) -> tuple[Source, ...]:
    return tuple(
        package_source(PACKAGE, f"data/{file}", name=file) for file in COMPLETE_JOURNEY_FILES
    )


KNOWN_SETS: MappingProxyType[str, KnownSet] = MappingProxyType(
    {
        "complete-journey": KnownSet(
            kind=SetKind(repeats_allowed=True, order_only=False),
            # Weeks end on Mondays at 05:00 UTC (midnight in the east of the US). Two weeks to
            # select on; four to gate and four for canary traffic, for enough users in each.
            periods=TimeCuts(
                select=datetime(2017, 10, 23, 5, tzinfo=UTC),
                gate=datetime(2017, 11, 6, 5, tzinfo=UTC),
                canary=datetime(2017, 12, 4, 5, tzinfo=UTC),
            ),
            find=_complete_journey_sources,
            read=read_complete_journey,
        ),
        "taobao": KnownSet(
            kind=SetKind(repeats_allowed=True, order_only=False),
            periods=TAOBAO_PERIODS,
            find=_below_data_folder(
                "it is an extract of Tianchi data set 649 (UserBehavior.csv)",
                (
                    "taobao-userbehavior-sample/users_tail_9days.csv.gz",
                    "taobao-userbehavior-sample/users_tail_9days.csv",
                ),
            ),
            read=read_taobao,
        ),
        "ml-1m": KnownSet(
            kind=SetKind(repeats_allowed=False, order_only=True),
            periods=LastSteps(),
            find=_below_data_folder(
                "ml-1m.txt is the file of the SASRec repository, items.csv joins titles to its ids",
                ("ml-1m/ml-1m.txt.gz", "ml-1m/ml-1m.txt"),
                ("ml-1m/items.csv.gz", "ml-1m/items.csv"),
            ),
            read=read_ml_1m,
        ),
        "amazon-beauty": KnownSet(
            kind=SetKind(repeats_allowed=False, order_only=True),
            periods=LastSteps(),
            find=_below_data_folder(
                "Beauty.txt is in the repositories S3-Rec and ICLRec",
                ("amazon-2014-5core/Beauty.txt.gz", "amazon-2014-5core/Beauty.txt"),
            ),
            read=read_amazon,
        ),
    }
)
