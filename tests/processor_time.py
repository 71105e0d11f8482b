"""Says at the end of a run of the tests which ones took most processor time, that of the programs they started included.

A clock on the wall says how busy the machine was; what a test costs is what it has others wait for.
"""

import os
import resource
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

SHOWN, WORTH_SHOWING = 20, 0.5
TABLE = "MEDREP_TEST_SECONDS"
"""Names a file that gets every test's seconds."""

_mark = 0.0


def _spent() -> float:
    """Processor seconds of this process and of those that it started and waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def pytest_runtest_logstart() -> None:
    global _mark
    _mark = _spent()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    global _mark
    report = yield
    now = _spent()
    report.processor_time = now - _mark  # a worker sends it along with the report
    _mark = now
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid] += getattr(report, "processor_time", 0.0)
    terminalreporter.section(f"processor time: {sum(seconds.values()) / 60:.1f} minutes, most of it in")
    for test, spent in seconds.most_common(SHOWN):
        if spent >= WORTH_SHOWING:
            terminalreporter.write_line(f"{spent:7.1f} s  {test}")
    if os.environ.get(TABLE):
        Path(os.environ[TABLE]).write_text("".join(f"{spent:.3f}\t{test}\n" for test, spent in seconds.most_common()))
