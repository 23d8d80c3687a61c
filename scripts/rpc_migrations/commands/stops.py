"""Where --until and --stop-before-swap end a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from ..errors import StepFileError
from ..journal import Status
from ..migration import Migration, Step


def check_stops(migrations: Sequence[Migration], until: str | None, *, before_swap: bool) -> None:
    """Raise StepFileError if no migration of a file has the step `until`; or, with `before_swap`, if none swaps tables."""
    names = list(dict.fromkeys(step.name for one in migrations for step in one.steps))
    file = migrations[0].file
    if until is not None and until not in names:
        listed = ", ".join(f'"{name}"' for name in names)
        raise StepFileError(f'{file} has no step "{until}".', hint=f"Its steps: {listed}.")
    if before_swap and not any(step.swaps for one in migrations for step in one.steps):
        raise StepFileError(f"{file} swaps no table.", hint="Leave --stop-before-swap out.")


def up_to(
    migrations: Sequence[Migration],
    until: str | None,
    *,
    before_swap: bool,
    statuses: Mapping[str, Status] = MappingProxyType({}),
) -> tuple[Migration, ...]:
    """The migrations of a file, cut off after the step `until` or before a swap; whole if neither is given.

    If several have such a step, the first one in which it is not done counts. `statuses`: by the migrations' names.
    """
    stops = [
        (migration.name in statuses and statuses[migration.name].is_done(step), place, end)
        for place, migration in enumerate(migrations)
        for end, step in _stops(migration, until, before_swap=before_swap)
    ]
    if not stops:
        return tuple(migrations)
    _, last, end = min(stops)
    steps = migrations[last].steps
    if end == len(steps):
        return tuple(migrations[: last + 1])
    return (*migrations[:last], replace(migrations[last], steps=steps[:end], stops_before=steps[end].name))


def _stops(migration: Migration, until: str | None, *, before_swap: bool) -> Iterator[tuple[int, Step]]:
    """The places where a migration may be cut off: how many steps come before it, and the step that decides."""
    for place, step in enumerate(migration.steps):
        if step.name == until:
            yield place + 1, step
        if before_swap and step.swaps:
            yield place, step
