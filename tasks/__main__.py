"""`python -m tasks <stage> <request.json>`: parse, check gates, run, seal, say so, exit."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import sys
import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tasks.adapters.artifact_store import ArtifactStore, Recipe
from tasks.adapters.claims import Claimant, claimed
from tasks.adapters.config_map_records import named_records
from tasks.adapters.object_store import ObjectStore
from tasks.adapters.scratch_space import CACHE, SCRATCH, scratch_folder, work_folder
from tasks.contracts.artifacts import Address, InputReference, Manifest, termination_sentence
from tasks.contracts.code_digest import code_digest
from tasks.contracts.credentials import without_given_credentials
from tasks.contracts.errors import BadRequestError, HeadraceError, bounded
from tasks.contracts.exit_codes import ExitCode
from tasks.contracts.gate_reports import REPORT_NAME, GateReport, demand_passing
from tasks.contracts.json_types import Json, parse_object
from tasks.contracts.log_lines import Level, LineLog, Subject
from tasks.contracts.ranks import ALONE, Ranks
from tasks.contracts.requests import ReleaseRequest
from tasks.contracts.stage_io import (
    Outcome,
    RankedStageModule,
    SayProgress,
    StageContext,
    StageInput,
    StageModule,
    StageRequest,
    checkpoint_seconds,
)
from tasks.contracts.stages import ArtifactKind, Stage
from tasks.contracts.storage_faults import storage_faults_told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROGRESS_SECONDS = 2.0
TERMINATION_BYTES = 4096


class PlainProgress:
    """Print a line a few seconds apart; the first and the last are never dropped, nor is news.

    News has no fraction, and is not what was said last: where a killed fit goes on, what is damaged.
    """

    def __init__(self, stage: Stage, log: LineLog) -> None:
        """Name the stage in every line."""
        self.stage = stage
        self._log = log
        self._last = 0.0
        self._said = ""

    def __call__(self, sentence: str, fraction: float | None) -> None:
        """Say where the stage is; `fraction` is 0..1 or None."""
        now = time.monotonic()
        is_news = fraction is None and sentence != self._said
        if now - self._last < PROGRESS_SECONDS and fraction != 1 and not is_news:
            return
        self._last, self._said = now, sentence
        percent = "" if fraction is None else f" {fraction:4.0%}"
        line = f"{percent} {sentence}"
        self._log.info(line.strip(), plain=f"{self.stage.value}:{line}")


def read_inputs(store: ArtifactStore, request: StageRequest, module: StageModule) -> _Inputs:
    """Return the inputs by name, each of the kind the stage reads, every byte verified."""
    known = {name.rstrip("?"): kind for name, kind in module.READS.items()}
    needed = {name for name in module.READS if not name.endswith("?")}
    missing, unknown = sorted(needed - set(request.reads)), sorted(set(request.reads) - set(known))
    if missing or unknown:
        message = (
            f"{request.stage.value}: expected reads {sorted(module.READS)}, "
            f"missing {missing}, unknown {unknown}"
        )
        raise BadRequestError(message)
    found = {}
    for name, text in request.reads.items():
        address = Address.parse(text)
        if known[name] not in {address.kind, ANY_KIND}:
            message = f"{request.stage.value}: {name}: expected a {known[name]}, found {text}"
            raise BadRequestError(message)
        manifest = store.manifest(address)
        found[name] = StageInput(address=text, manifest=manifest, path=store.fetch(manifest))
    return found


_Inputs = dict[str, StageInput]
ANY_KIND = ArtifactKind.GATE_REPORT  # gate_artifact reads any kind; nobody reads a report as input


def pinned_reads(module: StageModule, release: ReleaseRequest | None) -> dict[str, str]:
    """Return the reads that the release request pins: the champion's bundle and events."""
    champion = None if release is None else release.champion
    if champion is None:
        return {}
    pinned = {"champion": champion.bundle, "champion_events": champion.events}
    return {
        name: address
        for name, address in pinned.items()
        if address is not None and f"{name}?" in module.READS
    }


def demand_gates(
    store: ArtifactStore,
    request: StageRequest,
    module: StageModule,
    inputs: Mapping[str, StageInput],
) -> None:
    """Refuse every gated input that has no passing report on exactly its bytes."""
    for name in sorted(module.GATED & set(inputs)):
        where = f"{request.stage.value}: input {name}"
        if name not in request.gates:
            message = f"{where}: expected the address of its gate report, found none"
            raise BadRequestError(message)
        manifest = store.manifest(Address.parse(request.gates[name]))
        text = (store.fetch(manifest) / REPORT_NAME).read_bytes()
        item = inputs[name].manifest
        demand_passing(
            GateReport.parse(text, request.gates[name]), item.reference, item.kind, where
        )


def _release(store: ArtifactStore, request: StageRequest) -> ReleaseRequest | None:
    if request.release is None:
        return None
    folder = store.fetch(store.manifest(Address.parse(request.release)))
    return ReleaseRequest.parse((folder / "request.json").read_bytes(), request.release)


def _refused(store: ArtifactStore, manifest: Manifest) -> bool:
    if manifest.kind is not ArtifactKind.GATE_REPORT:
        return False
    text = (store.fetch(manifest) / REPORT_NAME).read_bytes()
    return not GateReport.parse(text, str(manifest.address)).passed


def _known_outcome(store: ArtifactStore, manifest: Manifest) -> Outcome:
    sentence = "sealed before"
    try:
        facts = parse_object(store.objects.read(f"{manifest.address}/facts.json"), "facts")
        sentence = str(facts.get("sentence", sentence))
    except (FileNotFoundError, BadRequestError):
        pass  # facts are outside the digest: without them the artifact is as good
    return Outcome(sentence=f"re-used: {sentence}", refused=_refused(store, manifest))


def run_stage(request: StageRequest, world: World) -> tuple[Manifest, Outcome]:
    """Run one stage, or answer from its sealed artifact."""
    module = cast("StageModule", importlib.import_module(f"tasks.stages.{request.stage.value}"))
    with _joined(module, request.stage, world.rank_count) as ranks:
        return _run_with(ranks, module, request, world)


def _run_with(
    ranks: Ranks, module: StageModule, request: StageRequest, world: World
) -> tuple[Manifest, Outcome]:
    release = _release(world.store, request)
    if release is not None:
        world.log.about(release_id=release.release_id, model=release.model)
    reads = {**pinned_reads(module, release), **request.reads}
    inputs = read_inputs(world.store, replace(request, reads=reads), module)
    demand_gates(world.store, request, module, inputs)
    with scratch_folder(world.scratch) as scratch:
        context = StageContext(
            inputs=inputs,
            out=scratch,
            work=scratch,
            progress=PlainProgress(request.stage, world.log),
            store_url=request.store_url,
            release=release,
            release_address=request.release,
            settings=request.settings,
            state_dir=world.state_dir,
            records=world.records,
            slot_host=world.slot_host,
            ranks=ranks,
            checkpoint_seconds=world.checkpoint_seconds,
        )
        if not ranks.is_first:
            return _assist(cast("RankedStageModule", module), context)
        made = _seal(module, context, request, world)
        return ranks.from_first(made)


def _joined(module: StageModule, stage: Stage, size: int) -> AbstractContextManager[Ranks]:
    if size == 1:
        return nullcontext(ALONE)
    if not hasattr(module, "joined_ranks"):
        message = (
            f"{stage.value}: expected one process, found WORLD_SIZE={size}: "
            "this stage does not share its work between ranks"
        )
        raise BadRequestError(message)
    return cast("RankedStageModule", module).joined_ranks()


def _assist(module: RankedStageModule, context: StageContext) -> tuple[Manifest, Outcome]:
    """Do as the first rank says: begin (it says None), or take what it sealed as this rank's evidence too."""
    module.configure(context)  # what the first rank refuses is refused here in the same words
    ranks, told = context.ranks, context.ranks.from_first(None)
    if told is None:
        module.assist(context)
        told = ranks.from_first(None)
    manifest, outcome = cast("tuple[Manifest, Outcome]", told)
    sentence = f"rank {ranks.rank} of {ranks.size}: {outcome.sentence}"
    return manifest, replace(outcome, sentence=sentence)


def written_folders(objects: ObjectStore, environment: Mapping[str, str]) -> list[Path]:
    """Return the local folders that a stage writes to: work, and where they are named the others."""
    state = environment.get("HEADRACE_STATE")
    named = [work_folder(objects, environment), objects.local_root, Path(state) if state else None]
    return [folder.absolute() for folder in named if folder is not None]


class World:
    """The store, the state folder and scratch space of this process, from the environment."""

    def __init__(self, request: StageRequest, environment: Mapping[str, str]) -> None:
        """Open the store that the request names."""
        objects = ObjectStore(request.store_url)
        base = work_folder(objects, environment)
        self.scratch = base / SCRATCH
        self.work = base
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.store = ArtifactStore(objects, cache=base / CACHE)
        self.log = LineLog.from_environment(_subject(request), environment)
        state = environment.get("HEADRACE_STATE")
        self.state_dir = Path(state) if state else None
        self.records = named_records(environment)
        self.slot_host = environment.get("HEADRACE_SLOT_HOST") or None
        self.checkpoint_seconds = checkpoint_seconds(environment)
        self.rank_count = int(environment.get("WORLD_SIZE", "1"))  # torchrun's


def _subject(request: StageRequest) -> Subject:
    """Return what is known before anything is read; the request of a release names it itself."""
    named = request.settings.get("release_id")
    return Subject(
        process=request.stage.value,
        stage=request.stage.value,
        release_id=named if isinstance(named, str) else None,
    )


def _seal(
    module: StageModule, context: StageContext, request: StageRequest, world: World
) -> tuple[Manifest, Outcome]:
    references: dict[str, InputReference] = {
        name: item.manifest.reference for name, item in context.inputs.items()
    }
    recipe = Recipe(
        kind=module.PRODUCES,
        stage=request.stage,
        inputs=references,
        config=module.configure(context),
        code=code_digest(request.stage),
    )
    world.log.about(artifact=str(recipe.address))
    work = world.work / recipe.address.key
    found = _sealed_before(world.store, recipe)
    if found is None:
        claimant = Claimant.this_process(world.log.subject.release_id)
        with claimed(work, claimant, _Waiting(recipe, context.progress)):
            found = _sealed_before(world.store, recipe) or _make(
                module, replace(context, work=work, config=recipe.config), recipe, world
            )
            shutil.rmtree(work, ignore_errors=True)
    return found


def _sealed_before(store: ArtifactStore, recipe: Recipe) -> tuple[Manifest, Outcome] | None:
    known = store.mark_used(recipe.address)
    if known is None:
        return None
    store.fetch(known)
    return known, _known_outcome(store, known)


class _Waiting:
    """Say who makes the artifact that this process was asked for too."""

    def __init__(self, recipe: Recipe, progress: SayProgress) -> None:
        self._where = str(recipe.address)[:30]
        self._progress = progress

    def __call__(self, holder: str) -> None:
        self._progress(f"waits for {self._where}..., which {holder} makes", None)


def _make(
    module: StageModule, context: StageContext, recipe: Recipe, world: World
) -> tuple[Manifest, Outcome]:
    started = time.time()
    context.ranks.from_first(None)  # the others may begin
    outcome = module.run(context)
    facts: dict[str, Json] = {
        **outcome.facts,
        "sentence": outcome.sentence,
        "refused": outcome.refused,
        "started_at": started,
        "seconds": round(time.time() - started, 3),
        "host": platform.node(),
        "cpus": os.cpu_count(),
    }
    manifest = world.store.seal(recipe, context.out, facts)
    # Another machine may have sealed first: what it sealed counts, not what was found here.
    return manifest, replace(outcome, refused=_refused(world.store, manifest))


def say_last(
    sentence: str, log: LineLog, environment: Mapping[str, str], level: Level = Level.ERROR
) -> None:
    """Put the last sentence where the operator looks, and on the screen.

    Where that cannot be written, the exit code still says what became of the stage.
    """
    log.say(level, sentence)
    target = environment.get("HEADRACE_TERMINATION_LOG", "/dev/termination-log")
    try:
        if "HEADRACE_TERMINATION_LOG" in environment or Path(target).exists():
            Path(target).write_text(bounded(sentence, TERMINATION_BYTES - 1), encoding="utf-8")
    except OSError as error:
        log.say(Level.WARNING, f"termination log: expected a file that can be written: {error}")


def parse_arguments(arguments: Sequence[str]) -> StageRequest:
    """Read the stage's name and its request: a file, or `-` for standard input."""
    parser = argparse.ArgumentParser(prog="python -m tasks", description=__doc__)
    parser.add_argument("stage", choices=[stage.value for stage in Stage])
    parser.add_argument("request", help="file with a stage_request/1, - for standard input")
    options = parser.parse_args(arguments)
    try:
        text = (
            sys.stdin.read()
            if options.request == "-"
            else Path(options.request).read_text(encoding="utf-8")
        )
    except OSError as error:
        message = f"request: expected a readable file, found {error}"
        raise BadRequestError(message) from error
    request = StageRequest.parse(text, options.request)
    if request.stage.value != options.stage:
        message = f"request: expected stage {options.stage}, found {request.stage.value}"
        raise BadRequestError(message)
    return request


def main(arguments: Sequence[str]) -> int:
    """Run the stage and return its exit code."""
    log = LineLog(subject=Subject(process="stage"))
    try:
        request = parse_arguments(arguments)
        folders = written_folders(ObjectStore(request.store_url), os.environ)
        with storage_faults_told(f"{request.stage.value}: {folders[0]}", folders):
            world = World(request, os.environ)
            log = world.log
            manifest, outcome = run_stage(request, world)
    except HeadraceError as error:
        say_last(str(error), log, os.environ)
        return int(error.exit_code)
    except Exception as error:  # noqa: BLE001  the last line of defence names the crash
        where = without_given_credentials(traceback.format_exc())
        sys.stderr.write(where)
        log.note(Level.ERROR, where)
        said = without_given_credentials(str(error))
        say_last(bounded(f"crashed: {type(error).__name__}: {said}"), log, os.environ)
        return int(ExitCode.CRASHED)
    level = Level.ERROR if outcome.refused else Level.INFO
    say_last(termination_sentence(manifest, outcome.sentence), log, os.environ, level)
    return int(ExitCode.GATE_REFUSED if outcome.refused else ExitCode.DONE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
