"""The full set of fault tests runs only when it is asked for: `make test-faults`."""

from __future__ import annotations

from typing import Any

import pytest

MARK = "every_fault"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the full set out unless it is asked for."""
    if MARK in (config.getoption("-m") or ""):
        return
    left_out = [item for item in items if item.get_closest_marker(MARK)]
    if left_out:
        items[:] = [item for item in items if not item.get_closest_marker(MARK)]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many cases there were."""

    def count(outcome: str) -> int:
        return sum("::test_fault" in report.nodeid for report in terminalreporter.stats.get(outcome, []))

    passed, failed = count("passed"), count("failed") + count("error")
    if passed + failed:
        how = "all ended in the one right state" if not failed else f"{failed} of them did NOT end in the right state"
        terminalreporter.write_line(f"{passed + failed} fault cases, {how}")
