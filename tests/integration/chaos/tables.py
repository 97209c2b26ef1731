"""What the pieces of a chaos run say together: tables for people, and whether all promises held."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from tests.integration.chaos.faults import FAULTS

Piece = dict[str, Any]
MEDIAN_SECONDS, WORST_SECONDS = 2.0, 5.0
LEASE_SLACK_SECONDS = 2.0


def as_tables(pieces: Sequence[Piece]) -> str:
    return "\n\n".join(table for table in (_faults(pieces), _others(pieces)) if table)


def _of(pieces: Sequence[Piece], part: str) -> list[dict[str, Any]]:
    return [piece["seen"] for piece in pieces if piece["part"] == part]


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _faults(pieces: Sequence[Piece]) -> str:
    head = (
        "fault",
        "trials",
        "requests",
        "failed",
        "to 0 % in the record, median / worst s",
        "to the router's last user, median / worst s",
        "users' p50 / p99 / worst ms",
        "rps, sent late p99",
    )
    rows = []
    for fault in FAULTS:
        seen = _of(pieces, fault.name)
        if seen:
            cuts = [cut for piece in seen for cut in piece["cuts"]]
            record = [cut["in_record_seconds"] for cut in cuts]
            router = [cut["in_router_seconds"] for cut in cuts]
            rows.append(
                _row(
                    fault.name,
                    len(cuts),
                    f"{_sum(seen, 'requests'):,}",
                    _sum(seen, "failed"),
                    f"{statistics.median(record):.2f} / {max(record):.2f}",
                    f"{statistics.median(router):.2f} / {max(router):.2f}",
                    _times(seen),
                    _rates(seen),
                )
            )
    return "\n".join([_row(*head), _row(*["---"] * len(head)), *rows]) if rows else ""


def _sum(seen: Sequence[dict[str, Any]], what: str) -> int:
    return sum(piece["met"][what] for piece in seen)


def _times(seen: Sequence[dict[str, Any]]) -> str:
    """Of several runs of the load the largest."""
    return " / ".join(
        f"{max(piece['met'][what] for piece in seen):.0f}"
        for what in ("p50_ms", "p99_ms", "worst_ms")
    )


def _rates(seen: Sequence[dict[str, Any]]) -> str:
    seconds = sum(piece["met"]["seconds"] for piece in seen)
    late = max(piece["met"]["late_p99_ms"] for piece in seen)
    return f"{_sum(seen, 'requests') / seconds:.1f}, {late:.1f} ms"


def _others(pieces: Sequence[Piece]) -> str:
    rows = [*_healthy(pieces), *_keeper(pieces), *_renewer(pieces)]
    return "\n".join([_row("what", "figure"), _row("---", "---"), *rows]) if rows else ""


def _healthy(pieces: Sequence[Piece]) -> Iterator[str]:
    seen = _of(pieces, "healthy")
    if seen:
        seconds = [piece["met"]["seconds"] for piece in seen]
        cuts = sum(len(piece["cuts"]) for piece in seen)
        yield _row(
            f"a healthy candidate, {len(seen)} trials of {min(seconds):.0f} s or more",
            f"{cuts} cut; {_sum(seen, 'failed')} of {_sum(seen, 'requests'):,} requests failed; "
            f"{_times(seen)} ms; {_rates(seen)}",
        )


def _keeper(pieces: Sequence[Piece]) -> Iterator[str]:
    for one in _of(pieces, "keeper killed"):
        yield _row(
            f"keeper killed -9 at {one['kills']} random moments",
            f"{len(one['beyond_the_plan'])} of {one['exposed']:,} requests given to a candidate "
            f"beyond the planned share; {one['met']['failed']} of {one['met']['requests']:,} failed; "
            f"{len(one['rollouts'])} releases, {one['cut']} of {one['harmful']} harmful ones cut, "
            f"{len(one['healthy_cut'])} healthy ones cut; a share that was taken away while the keeper "
            f"was dead was given for {one['longest_after_the_end_seconds']:.2f} s at most",
        )


def _renewer(pieces: Sequence[Piece]) -> Iterator[str]:
    seen = _of(pieces, "renewer killed")
    lapses = [lapse for piece in seen for lapse in piece["lapses"]]
    for moment in dict.fromkeys(lapse["moment"] for lapse in lapses):
        mine = [lapse for lapse in lapses if lapse["moment"] == moment]
        record = [lapse["in_record_seconds"] for lapse in mine]
        router = [lapse["in_router_seconds"] for lapse in mine]
        paused = sum(lapse["phase"] == "paused" for lapse in mine)
        yield _row(
            f"who renews a lease of 5 s is killed -9 in {moment}, {len(mine)} times",
            f"to 0 % in the record {statistics.median(record):.2f} s, worst {max(record):.2f}; last "
            f"user {statistics.median(router):.2f}, worst {max(router):.2f}; `PAUSED` {paused}, "
            f"resumed {sum(lapse['resumed'] for lapse in mine)}",
        )
    if seen:
        failed, asked = _sum(seen, "failed"), _sum(seen, "requests")
        yield _row("requests meanwhile", f"{failed} of {asked:,} failed; {_rates(seen)}")


def troubles(pieces: Sequence[Piece]) -> list[str]:
    """Return each promise that did not hold, in a sentence."""
    return [*_failures(pieces), *_slow_cuts(pieces), *_other_troubles(pieces)]


def _failures(pieces: Sequence[Piece]) -> Iterator[str]:
    for piece in pieces:
        found = piece["seen"]["met"]
        if found["failed"]:
            yield f"{piece['part']}: expected 0 failed requests, found {found['failed']}: {found['failures']}"


def _slow_cuts(pieces: Sequence[Piece]) -> Iterator[str]:
    for fault in FAULTS:
        cuts = [cut for seen in _of(pieces, fault.name) for cut in seen["cuts"]]
        for cut in cuts:
            if not cut["why"].startswith("cut by keeper"):
                yield f"{fault.name}: expected a cut by the keeper, found: {cut['why']}"
        taken = [max(cut["in_record_seconds"], cut["in_router_seconds"]) for cut in cuts]
        if taken and (statistics.median(taken) > MEDIAN_SECONDS or max(taken) > WORST_SECONDS):
            yield (
                f"{fault.name}: expected 0 % within {MEDIAN_SECONDS:g} s in the median and "
                f"{WORST_SECONDS:g} s at worst, found {statistics.median(taken):.2f} and {max(taken):.2f}"
            )


def _other_troubles(pieces: Sequence[Piece]) -> Iterator[str]:
    for seen in _of(pieces, "healthy"):
        yield from (f"healthy: expected no cut, found: {cut['why']}" for cut in seen["cuts"])
    for seen in _of(pieces, "keeper killed"):
        if not seen["exposed_after_the_last_kill"]:
            yield "keeper killed: expected it to come back and give users to the next rollout"
        for what in ("beyond_the_plan", "healthy_cut"):
            if seen[what]:
                yield f"keeper killed: expected none {what}, found {seen[what][:5]}"
    for seen in _of(pieces, "renewer killed"):
        for lapse in seen["lapses"]:
            seconds = max(lapse["in_record_seconds"], lapse["in_router_seconds"])
            within = seconds <= lapse["lease_seconds"] + LEASE_SLACK_SECONDS
            if not (within and lapse["phase"] == "paused" and lapse["resumed"]):
                yield f"renewer killed: expected PAUSED in time and resumable, found {lapse}"
