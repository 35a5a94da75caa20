import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # The suite was started in the background, which the programs that it starts and interrupts would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos", "the long run of faults: pytest -m chaos tests/chaos")
    group.addoption("--seed", type=int, default=0, help="of everything random in it")
    group.addoption("--repeat", type=int, default=1, help="how often each of its tests runs")
    group.addoption("--table", metavar="FILE", help="where its results go as JSON")
