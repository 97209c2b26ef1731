from typing import Any

import pytest

from tasks.serving.metrics import Metrics, prometheus_path
from tasks.serving.status import Code, ServingError


def test_requests_are_counted_by_status_and_only_good_ones_have_a_latency() -> None:
    metrics = Metrics()
    metrics.answered("m", "Predict", "GRPC", Code.OK, 15.0)
    metrics.answered("m", "Predict", "GRPC", Code.OK, 1e12)
    metrics.answered('g"', "Predict", "GRPC", Code.NOT_FOUND, 15.0)
    lines = metrics.page().decode().splitlines()
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 2' in lines
    assert ':tensorflow:serving:request_count{model_name="g\\"",status="NOT_FOUND"} 1' in lines
    labels = 'model_name="m",API="Predict",entrypoint="GRPC"'
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="10"}} 0' in lines
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="18"}} 1' in lines
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="+Inf"}} 2' in lines
    assert f":tensorflow:serving:request_latency_count{{{labels}}} 2" in lines


def test_the_page_is_off_unless_the_config_turns_it_on(tmp_path: Any) -> None:
    config = tmp_path / "monitoring.config"
    assert prometheus_path("") is None
    config.write_text("prometheus_config { enable: false }")
    assert prometheus_path(str(config)) is None
    config.write_text('prometheus_config { enable: true, path: "/metrics" }')
    assert prometheus_path(str(config)) == "/metrics"
    config.write_text("prometheus { on }")
    with pytest.raises(ServingError, match="Error parsing text-format"):
        prometheus_path(str(config))
