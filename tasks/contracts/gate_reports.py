"""What a gate found (format `gate_report/2`), and the check that a stage makes before it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from tasks.contracts.artifacts import InputReference
from tasks.contracts.errors import BadRequestError, GateRefusedError, bounded
from tasks.contracts.gate_verdicts import verdict_of
from tasks.contracts.json_types import Json, check_format, parse_object, pretty_json
from tasks.contracts.stages import ArtifactKind

REPORT_NAME = "report.json"
PAGE_NAME = "report.html"
MAX_SENTENCE_CHARACTERS = 900

Severity = Literal["critical", "warning"]
Shape = Literal["line", "bars", "intervals"]


@dataclass(frozen=True, kw_only=True)
class GateCheck:
    """One expectation in words: what was expected, what was found, and where."""

    name: str
    expected: str
    found: str
    severity: Severity  # critical blocks, warning informs
    passed: bool
    expectation: str  # Great Expectations' name of it
    where: str = ""  # "in 118 of 2.1M rows (e.g. item 88121)"
    why: str = ""  # one sentence for who has to act
    limits: Mapping[str, Json] | None = None  # the expectation's arguments; None before format 2
    measured: Mapping[str, Json] | None = None  # what was compared with them

    def __post_init__(self) -> None:
        """Refuse a severity that nobody would act on."""
        if self.severity not in {"critical", "warning"}:
            message = f"{self.name}: expected severity critical or warning, found {self.severity!r}"
            raise BadRequestError(message)

    @property
    def sentence(self) -> str:
        """Return `price: min 0 expected, -4.0 found in 118 of 2.1M rows (e.g. item 88121)`."""
        where = f" {self.where}" if self.where else ""
        return bounded(f"{self.name}: {self.expected} expected, {self.found} found{where}", 500)

    @property
    def advice(self) -> str:
        """Return the sentence, and after it why that is bad and what to do."""
        return bounded(f"{self.sentence} - {self.why}", 700) if self.why else self.sentence

    @property
    def recomputed(self) -> bool | None:
        """Return the verdict that follows from the numbers, None where the report keeps none."""
        if self.limits is None or self.measured is None:
            return None
        return verdict_of(self.expectation, self.limits, self.measured)


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line or one row of bars; `low` and `high` are ends of intervals where there are any."""

    name: str
    values: tuple[float | None, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A small plot: labels along x and one or more series of equal length."""

    title: str
    shape: Shape
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    unit: str = ""
    bound: float | None = None  # a threshold drawn across
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse series that do not fit the labels."""
        for series in self.series:
            rows = (series.values, series.low or series.values, series.high or series.values)
            lengths = sorted({len(row) for row in rows})
            if lengths != [len(self.labels)]:
                where = f"figure {self.title!r}: {series.name!r}"
                message = f"{where}: expected {len(self.labels)} values, found {lengths}"
                raise BadRequestError(message)


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What one gate found on one artifact; holds no time, host or run id."""

    artifact: str  # address
    content: str  # digest of the payload that was looked at
    kind: ArtifactKind
    checks: tuple[GateCheck, ...]
    figures: tuple[Figure, ...] = ()
    key_figures: Mapping[str, str] | None = None  # a few numbers in words for the head of the page
    note: str = ""  # what a passing verdict means here, such as "already serving"

    def __post_init__(self) -> None:
        """Refuse a report that looked at nothing."""
        if not self.checks:
            message = f"gate report on {self.artifact}: expected at least one check, found none"
            raise BadRequestError(message)

    @property
    def failures(self) -> tuple[GateCheck, ...]:
        """Return the failed critical checks."""
        return tuple(c for c in self.checks if not c.passed and c.severity == "critical")

    @property
    def warnings(self) -> tuple[GateCheck, ...]:
        """Return the failed checks that only inform."""
        return tuple(c for c in self.checks if not c.passed and c.severity == "warning")

    @property
    def passed(self) -> bool:
        """Return whether a later stage may read the artifact."""
        return not self.failures

    @property
    def sentence(self) -> str:
        """Return the verdict with every failure that fits, for the termination log."""
        total, kind = len(self.checks), self.kind.value
        note = f" ({self.note})" if self.note else ""
        if not self.passed:
            head = f"Gate '{kind}' refused: {len(self.failures)} of {total} failed{note} - "
            return head + _joined([check.advice for check in self.failures])
        head = f"Gate '{kind}' passed: {total} checks{note}"
        if not self.warnings:
            return head
        warned = _joined([check.sentence for check in self.warnings])
        return f"{head}, {len(self.warnings)} warned - {warned}"

    def to_text(self) -> str:
        """Return `report.json` as text."""
        return pretty_json(
            {
                "format": "gate_report/2",
                "artifact": self.artifact,
                "content": self.content,
                "kind": self.kind.value,
                "passed": self.passed,
                "sentence": self.sentence,
                "note": self.note,
                "key_figures": dict(self.key_figures or {}),
                "checks": [asdict(check) for check in self.checks],
                "figures": [asdict(figure) for figure in self.figures],
            }
        )

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> GateReport:
        """Read a report; refuse one whose verdict does not follow from its checks."""
        record = parse_object(text, where)
        number = check_format(record, "gate_report", 2, where)
        try:
            report = cls._from_record(cast("Mapping[str, Any]", record))
        except (KeyError, TypeError, ValueError) as error:
            message = (
                f"{where}: expected a complete gate_report/{number}, found a bad field: {error!r}"
            )
            raise BadRequestError(message) from error
        if number >= 2:
            _demand_numbers(report, where)
        if record.get("passed") is not report.passed:
            message = (
                f"{where}: field passed: expected {report.passed} from the checks, "
                f"found {record.get('passed')!r}"
            )
            raise BadRequestError(message)
        return report

    @classmethod
    def _from_record(cls, record: Mapping[str, Any]) -> GateReport:
        return cls(
            artifact=str(record["artifact"]),
            content=str(record["content"]),
            kind=ArtifactKind(record["kind"]),
            checks=tuple(GateCheck(**check) for check in record["checks"]),
            figures=tuple(_figure(figure) for figure in record["figures"]),
            key_figures=dict(record["key_figures"]),
            note=str(record["note"]),
        )


def _demand_numbers(report: GateReport, where: str) -> None:
    """Refuse a check that keeps no numbers: nobody could prove its verdict."""
    for place, check in enumerate(report.checks):
        for name, numbers in (("limits", check.limits), ("measured", check.measured)):
            if not isinstance(numbers, Mapping):
                message = (
                    f"{where}: checks[{place}] ({check.name}): field {name}: expected the "
                    f"numbers of the verdict, as in every gate_report/2, found {numbers!r:.80}"
                )
                raise BadRequestError(message)


def demand_passing(
    report: GateReport, reference: InputReference, kind: ArtifactKind, where: str
) -> None:
    """Refuse an input whose report is about other bytes, or whose gate refused it.

    Content decides, not the address: equal bytes made by other code keep their verdict.
    """
    found = (report.kind, report.content)
    if found != (kind, reference.content):
        message = (
            f"{where}: expected a gate report on {kind.value} with content {reference.content}, "
            f"found one on {report.kind.value} with content {report.content} ({report.artifact}); "
            "run gate_artifact on this input"
        )
        raise BadRequestError(message)
    if not report.passed:
        raise GateRefusedError(kind.value, [check.advice for check in report.failures])


def _figure(record: Mapping[str, Any]) -> Figure:
    series = tuple(
        Series(
            name=item["name"],
            values=tuple(item["values"]),
            low=tuple(item["low"]),
            high=tuple(item["high"]),
        )
        for item in record["series"]
    )
    return Figure(**{**record, "labels": tuple(record["labels"]), "series": series})


def _joined(sentences: Sequence[str]) -> str:
    """Join sentences by "; " while they fit, and say how many did not."""
    kept: list[str] = []
    for sentence in sentences:
        if kept and sum(map(len, kept)) + len(sentence) > MAX_SENTENCE_CHARACTERS:
            return f"{'; '.join(kept)}; and {len(sentences) - len(kept)} more, see {PAGE_NAME}"
        kept.append(sentence)
    return "; ".join(kept)
