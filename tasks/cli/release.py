"""`headrace release`: one release of any data set, from events to promotion or a refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.cli.home import Home
from tasks.cli.release_flow import Form, release_with_opponent
from tasks.cli.stack import start
from tasks.contracts.catalogues import DATASETS, DEFAULT_RECIPES, recipes_of
from tasks.contracts.errors import BadRequestError
from tasks.contracts.requests import DEFAULT_PLANS

if TYPE_CHECKING:
    import argparse

    from tasks.cli.console import Console


def run(options: argparse.Namespace, console: Console) -> int:
    """Start the stack if need be, release, and return how it ended."""
    form = form_of(options)
    home = Home.from_environment()
    start(home, console)
    return int(release_with_opponent(home, form, console, first=options.first).exit_code)


def form_of(options: argparse.Namespace) -> Form:
    """Return the trigger form; combinations that cannot work are refused before anything starts."""
    own = (options.events_url, options.catalogue_url, options.mapping_url)
    if options.dataset == "events" and not options.events_url:
        message = "--dataset events: expected --events-url, found none"
        raise BadRequestError(message)
    if options.dataset != "events" and any(own):
        message = (
            "--events-url, --catalogue-url and --mapping-url: expected only with "
            f"--dataset events, found --dataset {options.dataset}"
        )
        raise BadRequestError(message)
    material = DATASETS[options.dataset].material
    recipe = options.recipe or DEFAULT_RECIPES[material]
    if recipe not in recipes_of(material):
        message = (
            f"--recipe: expected one of {', '.join(sorted(recipes_of(material)))} for --dataset "
            f"{options.dataset}, found {recipe}"
        )
        raise BadRequestError(message)
    return Form(
        model=options.model or DATASETS[options.dataset].default_model,
        dataset=options.dataset,
        recipe=recipe,
        compression=options.compression,
        plan=options.plan or DEFAULT_PLANS[material],
        bake_seconds=options.bake_seconds,
        seed=options.seed,
        approval=options.approval,
        as_of=options.as_of,
        events_url=options.events_url,
        catalogue_url=options.catalogue_url,
        mapping_url=options.mapping_url,
    )
