from typing import Any

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.serving.flags import ServerOptions, channel_arguments, parse_flags


def test_flags_are_written_in_three_ways() -> None:
    options = parse_flags(
        [
            "--port=1",
            "--rest_api_port",
            "2",
            "--enable_grpc_healthcheck_service",
            "--drain_seconds=3",
        ]
    )
    assert (options.port, options.rest_api_port, options.drain_seconds) == (1, 2, 3)
    assert options.enable_grpc_healthcheck_service


def test_a_switch_may_be_off() -> None:
    assert not parse_flags(["--enable_model_warmup=false"]).enable_model_warmup


def test_without_flags_the_defaults_hold() -> None:
    assert parse_flags([]) == ServerOptions()


def test_an_unsupported_flag_with_its_default_is_harmless() -> None:
    assert parse_flags(["--enable_batching=false", "--flush_filesystem_caches=true"])


@pytest.mark.parametrize(
    ("argv", "error"),
    (
        (["--enable_batching"], "--enable_batching=true: not supported by headrace serve"),
        (["--ssl_config_file=a"], "--ssl_config_file=a: not supported by headrace serve"),
        (["--prot=1"], "--prot: not a flag of headrace serve"),
        (["--port=x"], "--port: expected an integer, found 'x'"),
        (["--enable_model_warmup=maybe"], "expected true or false, found 'maybe'"),
        (["--port"], "--port: expected a value, found none"),
        (["serve"], "expected a flag --name=value, found 'serve'"),
    ),
)
def test_what_cannot_be_done_is_refused_by_name(argv: Any, error: Any) -> None:
    with pytest.raises(BadRequestError, match=error):
        parse_flags(argv)


def test_channel_arguments_are_numbers_where_they_can_be() -> None:
    assert channel_arguments("grpc.max_connection_age_ms=30000,grpc.x=y") == (
        ("grpc.max_connection_age_ms", 30000),
        ("grpc.x", "y"),
    )
