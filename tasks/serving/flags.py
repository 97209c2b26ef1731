"""The flags of `headrace serve`: tensorflow_model_server's names, and a few of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from tasks.contracts.errors import BadRequestError

# Known to tensorflow_model_server, not to this server. The value is accepted if it is the default.
_UNSUPPORTED: dict[str, object] = {
    "enable_batching": False,
    "enable_per_model_batching_parameters": False,
    "tensorflow_session_parallelism": 0,
    "tensorflow_session_config_file": "",
    "use_alts_credentials": False,
    "ssl_config_file": "",
    "platform_config_file": "",
    "per_process_gpu_memory_fraction": 0.0,
    "prefer_tflite_model": False,
    "xla_cpu_compilation_enabled": False,
    "xla_gpu_compilation_enabled": False,
    "thread_pool_factory_config_file": "",
    "mixed_precision": "",
    "skip_initialize_tpu": False,
    "enable_signature_method_name_check": False,
}
# Without any effect here, whatever they say.
_IGNORED = frozenset(
    {
        "enable_profiler",
        "flush_filesystem_caches",
        "num_tflite_interpreters_per_pool",
        "num_tflite_pools",
        "num_unload_threads",
        "remove_unused_fields_from_bundle_metagraph",
    }
)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Every supported flag with its default; the field's name is the flag's."""

    port: int = 8500
    grpc_socket_path: str = ""
    grpc_max_threads: int = 8
    grpc_channel_arguments: str = ""
    rest_api_port: int = 0
    rest_api_num_threads: int = 8
    rest_api_timeout_in_ms: int = 30_000
    rest_api_enable_cors_support: bool = False
    model_name: str = "default"
    model_base_path: str = ""
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: int = 0
    file_system_poll_wait_seconds: int = 1
    allow_version_labels_for_unavailable_models: bool = False
    num_load_threads: int = 0
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 0
    saved_model_tags: str = "serve"
    tensorflow_intra_op_parallelism: int = 1
    tensorflow_inter_op_parallelism: int = 0
    batching_parameters_file: str = ""  # refused: there is no --enable_batching here
    monitoring_config_file: str = ""
    enable_grpc_healthcheck_service: bool = False
    enable_serialization_as_tensor_content: bool = False
    version: bool = False
    # Not flags of tensorflow_model_server:
    bind_address: str = "127.0.0.1"
    drain_seconds: int = 30
    help: bool = False


_TYPES: dict[str, type] = {option.name: type(option.default) for option in fields(ServerOptions)}


def parse_flags(argv: Sequence[str]) -> ServerOptions:
    """Return the options; an unknown, unsupported or misspelt flag is refused by name."""
    values: dict[str, Any] = {}
    words = list(argv)
    while words:
        name, value = _take(words)
        if name in _TYPES:
            values[name] = _typed(name, value, _TYPES[name])
        elif name in _UNSUPPORTED:
            _refuse_unless_default(name, value)
        elif name not in _IGNORED:
            message = f"--{name}: not a flag of headrace serve; `headrace serve --help` lists them"
            raise BadRequestError(message)
    return ServerOptions(**values)


def _take(words: list[str]) -> tuple[str, str]:
    """Remove one `--name=value`, `--name value` or `--name` from the front."""
    word = words.pop(0)
    if not word.startswith("--"):
        message = f"expected a flag --name=value, found {word!r}"
        raise BadRequestError(message)
    name, equals, value = word[2:].partition("=")
    if equals:
        return name, value
    default = _UNSUPPORTED.get(name)
    is_switch = _TYPES.get(name) is bool or isinstance(default, bool) or name in _IGNORED
    follows = bool(words) and not words[0].startswith("--")
    if is_switch and not (follows and words[0] in ("true", "false")):
        return name, "true"
    if not follows:
        message = f"--{name}: expected a value, found none"
        raise BadRequestError(message)
    return name, words.pop(0)


def _typed(name: str, value: str, kind: type) -> object:
    if kind is bool and value in ("true", "false", "1", "0"):
        return value in ("true", "1")
    if kind is int:
        try:
            return int(value)
        except ValueError:
            pass
    if kind is str:
        return value
    message = (
        f"--{name}: expected {'true or false' if kind is bool else 'an integer'}, found {value!r}"
    )
    raise BadRequestError(message)


def _refuse_unless_default(name: str, value: str) -> None:
    default = _UNSUPPORTED[name]
    given = value == "true" if isinstance(default, bool) else value
    if str(given) not in (str(default), str(default).removesuffix(".0")):
        message = f"--{name}={value}: not supported by headrace serve; leave it out"
        raise BadRequestError(message)


def usage() -> str:
    """Return the text of --help."""
    listed = "\n".join(f"  --{option.name}={option.default}" for option in fields(ServerOptions))
    return (
        "usage: headrace serve --model_base_path=FOLDER | --model_config_file=FILE [flags]\n"
        "Serves SavedModels by TensorFlow Serving's gRPC and REST protocols.\n"
        f"flags and their defaults:\n{listed}\n"
        f"known to tensorflow_model_server, refused here: {', '.join(sorted(_UNSUPPORTED))}\n"
        f"accepted without effect: {', '.join(sorted(_IGNORED))}\n"
    )


def channel_arguments(text: str) -> tuple[tuple[str, str | int], ...]:
    """Return gRPC channel arguments of `a=b,c=d`; whole numbers become integers."""
    pairs = [item.partition("=") for item in text.split(",") if item]
    return tuple(
        (name, int(value) if value.lstrip("-").isdigit() else value) for name, _, value in pairs
    )
