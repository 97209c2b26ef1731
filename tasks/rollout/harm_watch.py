"""Follows Envoy's counts of a step from reading to reading, through restarts of Envoy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tasks.rollout.envoy_stats import SlotCounts, Statistics, VariantCounts, VariantName
from tasks.rollout.harm import READ_SECONDS, Harm, Reading, find_harm
from tasks.rollout.phases import Phase
from tasks.rollout.record import StateRecord

DENSE_READINGS = 40  # the last ten seconds: every reading is a start
SPARSE_READINGS = 16  # before that, one in four seconds
KEPT_READINGS = 480  # for two minutes


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """The counts of a step's three sources as Envoy gives them."""

    candidate: VariantCounts
    stable: VariantCounts
    slot: SlotCounts


@dataclass(kw_only=True)
class StepWatch:
    """The readings of one step; a new watch goes on from what Envoy has counted by then."""

    step: tuple[str, int, float, int]  # release, step, when it began, whom it is measured against
    last: _Seen | None = None
    readings: list[Reading] = field(default_factory=list)

    def add(self, seen: _Seen, moment: int) -> None:
        """Take the next reading; a count that fell was begun anew by Envoy."""
        if self.last is None:
            self.readings.append(Reading(moment=moment))
        else:
            before = self.readings[-1]
            self.readings.append(
                Reading(
                    moment=max(moment, before.moment + 1),
                    candidate=_grown(before.candidate, self.last.candidate, seen.candidate),
                    stable=_grown(before.stable, self.last.stable, seen.stable),
                    slot=SlotCounts(
                        asked=before.slot.asked + _more(self.last.slot.asked, seen.slot.asked),
                        ejections=before.slot.ejections
                        + _more(self.last.slot.ejections, seen.slot.ejections),
                        passed_on=before.slot.passed_on
                        + _more(self.last.slot.passed_on, seen.slot.passed_on),
                    ),
                )
            )
        self.last = seen
        self._thin_out(self.readings[-1].moment)

    def _thin_out(self, now: int) -> None:
        """Keep the first start, all late ones, and some of those before."""
        place = len(self.readings) - 1 - DENSE_READINGS
        if place > 0 and self.readings[place].moment % SPARSE_READINGS:
            del self.readings[place]
        if len(self.readings) > 1 and now - self.readings[1].moment > KEPT_READINGS:
            del self.readings[1]


@dataclass(kw_only=True)
class HarmWatch:
    """Watches the step of every model that is in one."""

    _watches: dict[str, StepWatch] = field(default_factory=dict)

    def harm(self, record: StateRecord, statistics: Statistics, now_unix: float) -> Harm | None:
        """Add a reading of a model in a step; return the harm that it shows, if any."""
        candidate, stable, colour = record.candidate, record.stable, record.roles.candidate
        stepping = record.status.phase is Phase.STEPPING and record.status.step is not None
        if not stepping or candidate is None or stable is None or record.plan is None:
            self._watches.pop(record.model, None)
            return None
        step = (
            candidate.release_id,
            record.status.step or 0,
            record.step_began_at,
            stable.release_number,  # a hotfix begins with no times of its own
        )
        watch = self._watches.get(record.model)
        if watch is None or watch.step != step:
            watch = self._watches[record.model] = StepWatch(step=step)
        seen = _Seen(
            candidate=_of(statistics, record.model, "candidate", candidate.release_number),
            stable=_of(statistics, record.model, "stable", stable.release_number),
            slot=SlotCounts()
            if colour is None
            else statistics.slots.get((record.model, colour), SlotCounts()),
        )
        watch.add(seen, max(0, int((now_unix - record.step_began_at) / READ_SECONDS)))
        return find_harm(watch.readings, record.plan, record.per_try_timeout_ms)


def _of(statistics: Statistics, model: str, variant: str, number: int) -> VariantCounts:
    name = VariantName(model=model, variant=variant, release_number=number)
    return statistics.variants.get(name, VariantCounts())


def _more(last: int, now: int) -> int:
    return now - last if now >= last else now


def _grown(total: VariantCounts, last: VariantCounts, now: VariantCounts) -> VariantCounts:
    return VariantCounts(
        completed=total.completed + _more(last.completed, now.completed),
        failed=total.failed + _more(last.failed, now.failed),
        failed_rpcs=total.failed_rpcs + _more(last.failed_rpcs, now.failed_rpcs),
        retried=total.retried + _more(last.retried, now.retried),
        exhausted=total.exhausted + _more(last.exhausted, now.exhausted),
        within_ms=_grown_times(total.within_ms, last.within_ms, now.within_ms),
    )


def _grown_times(
    total: Mapping[float, int], last: Mapping[float, int], now: Mapping[float, int]
) -> dict[float, int]:
    # A histogram begins anew as a whole: a single bound may be empty before and after.
    # One that holds nothing yet is left out: what was counted before it stays.
    anew = any(now.get(bound, 0) < number for bound, number in last.items())
    base = {} if anew else last
    return {
        bound: total.get(bound, 0) + now.get(bound, 0) - base.get(bound, 0)
        for bound in sorted(total.keys() | now.keys())
    }
