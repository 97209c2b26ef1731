"""The models of one server: configuration, labels, look-up, reload (server_core.cc)."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, field
from typing import Any

from tasks.serving import model_config
from tasks.serving.base_path import WatchedModel
from tasks.serving.protos import server_config
from tasks.serving.served_version import ServedVersion
from tasks.serving.status import Code, ServingError, invalid_argument
from tasks.serving.storage_source import StorageSource
from tasks.serving.version_manager import Load, LoadOptions, VersionManager
from tasks.serving.version_states import State, StateBoard, why_not_available

log = logging.getLogger("headrace.serve")


@dataclass(frozen=True, kw_only=True)
class CoreOptions:
    """What the flags say about models."""

    load: LoadOptions = field(default_factory=LoadOptions)
    poll_wait_seconds: float = 1.0
    allow_labels_for_unavailable: bool = False


class ServerCore:
    """Answers "which loaded version is meant"; changes the set of models on request."""

    def __init__(self, load: Load, options: CoreOptions) -> None:
        self._options = options
        self.board = StateBoard()
        self._manager = VersionManager(load, self.board, options.load)
        self._source = StorageSource(self._manager.aspire, options.poll_wait_seconds)
        self._reloading = threading.Lock()  # held while a reload waits: later ones queue
        self._config: Any = server_config.ModelServerConfig()
        self._started = False
        self._labels: dict[str, dict[str, int]] = {}  # replaced as a whole, never changed

    def borrow(self, model_spec: Any) -> ServedVersion:
        """Return the version a ModelSpec means, with one request counted in."""
        name = model_spec.name
        if not name:
            raise invalid_argument("ModelSpec has no name specified.")
        choice = model_spec.WhichOneof("version_choice")
        version = None
        if choice == "version":
            version = model_spec.version.value
        elif choice == "version_label":
            version = self.version_of_label(name, model_spec.version_label)
        return self._manager.borrow(name, version)

    def version_of_label(self, name: str, label: str) -> int:
        """Return the version a label points to, loaded or not."""
        version = self._labels.get(name, {}).get(label)
        if version is None:
            raise invalid_argument(f"Unrecognized servable version label: {label}")
        return version

    def reload(self, config: Any) -> None:
        """Replace the whole configuration; waits for names that are new, without limit."""
        with self._reloading:
            self._check_transition(config)
            kind = config.WhichOneof("config")
            if kind is None:
                return  # nothing to load yet; a later config may come
            models = config.model_config_list.config
            model_config.check_models(models)
            if self._config.WhichOneof("config") is not None:
                model_config.check_no_platform_change(self._config.model_config_list.config, models)
            # Stored before the next checks, as the real server does: a config that they refuse
            # stays the one that later configs are compared with.
            self._config = server_config.ModelServerConfig()
            self._config.CopyFrom(config)
            self._labels = self._checked_labels(models)
            model_config.check_platforms_supported(models)
            self._change_models(models)
            refused = model_config.unsupported_logging(models)
            if refused is not None:
                raise refused

    def _check_transition(self, config: Any) -> None:
        old, new = self._config.WhichOneof("config"), config.WhichOneof("config")
        if new == "custom_model_config":
            message = "custom_model_config is not supported by headrace serve"
            raise ServingError(Code.UNIMPLEMENTED, message)
        if old is not None and new != old:
            message = (
                "Cannot transition to requested config. It is only legal to transition from one "
                "ModelConfigList to another."
            )
            raise ServingError(Code.FAILED_PRECONDITION, message)

    def _checked_labels(self, models: Any) -> dict[str, dict[str, int]]:
        labels: dict[str, dict[str, int]] = {}
        for model in models:
            available = {
                row.id.version
                for row in self.board.rows(model.name)
                if row.state is State.AVAILABLE
            }
            for label, version in model.version_labels.items():
                if version not in available and not self._may_point_ahead(
                    model.name, label, version
                ):
                    message = (
                        f"Request to assign label to version {version} of model {model.name}, "
                        "which is not currently available for inference"
                    )
                    raise ServingError(Code.FAILED_PRECONDITION, message)
                labels.setdefault(model.name, {})[label] = version
        return labels

    def _may_point_ahead(self, name: str, label: str, version: int) -> bool:
        if not self._options.allow_labels_for_unavailable:
            return False
        return self._labels.get(name, {}).get(label, version) == version

    def _change_models(self, models: Any) -> None:
        watched = model_config.watched_models(models)
        if not self._started:
            self._start(watched)
            return
        new_names = sorted({model.name for model in watched} - self._source.names())
        watch = self.board.watch_from_now()
        try:
            self._source.watch(watched)
            settled = watch.wait_until_settled(new_names)
        finally:
            self.board.forget(watch)
        failure = why_not_available(settled, "model(s)")
        if failure:
            raise ServingError(Code.UNKNOWN, failure)

    def _start(self, watched: list[WatchedModel]) -> None:
        self._started = True
        self._source.watch(watched)
        self._manager.start(num_initial_threads=4 * (os.cpu_count() or 1))
        self._source.start()
        settled = self.board.watch_all().wait_until_settled(model.name for model in watched)
        self._manager.use_threads()
        failure = why_not_available(settled, "servable(s)")
        if failure:
            raise ServingError(Code.UNKNOWN, failure)

    def stop(self) -> None:
        """Stop looking, loading and waiting."""
        self._source.stop()
        self._manager.stop()
        self.board.close()
