"""Whether migration files can run as they are: what of them cannot run in a step, said in one message before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise

from .errors import StepFileError
from .migration import Migration, Step
from .other_tools import marks as foreign_marks
from .refusals import Refusal, lost_search_path, refusals

MOST_REFUSALS = 10  # listed in one message


def check(migrations: Iterable[Migration]) -> None:
    """Raise StepFileError, naming files and lines, if something in the migrations cannot run in a step."""
    found = [
        (migration.file, refusal)
        for migration in migrations
        for next_steps in [_next_steps(migration)]
        for _, parts in groupby(migration.steps, key=lambda step: step.line)
        for refusal in _refusals(list(parts), next_steps)
    ]
    if not found:
        return
    names, told = {name for name, _ in found}, set[str]()
    lines = []
    for name, refusal in found[:MOST_REFUSALS]:
        instead = "" if refusal.instead in told else f" {refusal.instead}"  # said once is enough
        told.add(refusal.instead)
        lines.append(f"{name}:{refusal.line}: {refusal.what}.{instead}")
    if len(found) > MOST_REFUSALS:
        lines.append(f"... and {len(found) - MOST_REFUSALS} more.")
    raise StepFileError(
        f"{found[0][0]} cannot run as it is; nothing was sent."
        if len(names) == 1
        else f"{len(names)} files cannot run as they are; nothing was sent.",
        details="\n".join(lines),
        hint="Change what the lines above name, then run the same command again.",
    )


def _refusals(parts: list[Step], next_steps: dict[int, Step]) -> Iterator[Refusal]:
    """What cannot run of a step, which is here in the parts that its COMMITs divide it into."""
    yield from foreign_marks(parts[0].file, "".join(part.sql for part in parts), parts[0].first_line)
    for part in parts:
        yield from refusals(part.statements[len(part.settings) :])
        if later := next_steps.get(id(part)):
            yield from lost_search_path(part.statements, later.statements[: len(later.settings) + 1], later.name)


def _next_steps(migration: Migration) -> dict[int, Step]:
    """The step that follows in the file, by the id of each step of it."""
    steps = migration.file_steps or migration.steps
    return {id(step): later for step, later in pairwise(steps)}
