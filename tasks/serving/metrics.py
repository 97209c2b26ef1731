"""Counters and latency histograms, and their Prometheus page with TensorFlow Serving's names."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tasks.serving.model_config import read_text_proto
from tasks.serving.status import Code

DEFAULT_PATH = "/monitoring/prometheus/metrics"
REQUEST_COUNT = ":tensorflow:serving:request_count"
REQUEST_LATENCY = ":tensorflow:serving:request_latency"
RUNTIME_LATENCY = ":tensorflow:serving:runtime_latency"
LIMITS_MICROSECONDS = tuple(10 * 1.8**power for power in range(33))

Labels = tuple[tuple[str, str], ...]


@dataclass(kw_only=True)
class _Histogram:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LIMITS_MICROSECONDS) + 1))
    total: float = 0.0

    def add(self, microseconds: float) -> None:
        self.buckets[bisect_left(LIMITS_MICROSECONDS, microseconds)] += 1
        self.total += microseconds


class Metrics:
    """What happened since the process began. May be used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Labels, int] = {}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {}

    def answered(
        self, model: str, api: str, entrypoint: str, code: Code, microseconds: float
    ) -> None:
        """Count one request; only those that went well have a latency."""
        status = (("model_name", model), ("status", code.name))
        with self._lock:
            self._counts[status] = self._counts.get(status, 0) + 1
            if code is Code.OK:
                labels = (("model_name", model), ("API", api), ("entrypoint", entrypoint))
                self._histogram(REQUEST_LATENCY, labels).add(microseconds)

    def ran(self, model: str, api: str, microseconds: float) -> None:
        """Count one session run."""
        labels = (("model_name", model), ("API", api), ("runtime", "TF1"))
        with self._lock:
            self._histogram(RUNTIME_LATENCY, labels).add(microseconds)

    def _histogram(self, name: str, labels: Labels) -> _Histogram:
        return self._histograms.setdefault(name, {}).setdefault(labels, _Histogram())

    def page(self) -> bytes:
        """Return the text that Prometheus reads."""
        with self._lock:
            lines = [f"# TYPE {REQUEST_COUNT} counter"]
            lines += [
                f"{REQUEST_COUNT}{{{_label_text(labels)}}} {count}"
                for labels, count in sorted(self._counts.items())
            ]
            for name, points in sorted(self._histograms.items()):
                lines.append(f"# TYPE {name} histogram")
                for labels, histogram in sorted(points.items()):
                    lines += _histogram_lines(name, _label_text(labels), histogram)
        return ("\n".join(lines) + "\n").encode()


def _histogram_lines(name: str, labels: str, histogram: _Histogram) -> Iterable[str]:
    limits = [f"{limit:.6g}" for limit in LIMITS_MICROSECONDS] + ["+Inf"]
    count = 0
    for limit, added in zip(limits, histogram.buckets, strict=True):
        count += added
        yield f'{name}_bucket{{{labels},le="{limit}"}} {count}'
    yield f"{name}_sum{{{labels}}} {histogram.total:.6g}"
    yield f"{name}_count{{{labels}}} {count}"


def _label_text(labels: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def prometheus_path(config_file: str) -> str | None:
    """Return where the page is, from a text MonitoringConfig; None: it is off."""
    if not config_file:
        return None
    config = read_text_proto(config_file, _monitoring_config()())
    if not config.prometheus_config.enable:
        return None
    return config.prometheus_config.path or DEFAULT_PATH


def _monitoring_config() -> type:
    """Return the message class: the Python package of the protocol leaves this one out."""
    file = descriptor_pb2.FileDescriptorProto(
        name="headrace/monitoring_config.proto", package="tensorflow.serving", syntax="proto3"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    prometheus = file.message_type.add(name="PrometheusConfig")
    optional = kinds.LABEL_OPTIONAL
    prometheus.field.add(name="enable", number=1, type=kinds.TYPE_BOOL, label=optional)
    prometheus.field.add(name="path", number=2, type=kinds.TYPE_STRING, label=optional)
    monitoring = file.message_type.add(name="MonitoringConfig")
    monitoring.field.add(
        name="prometheus_config",
        number=1,
        type=kinds.TYPE_MESSAGE,
        type_name=".tensorflow.serving.PrometheusConfig",
        label=optional,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    name = "tensorflow.serving.MonitoringConfig"
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
