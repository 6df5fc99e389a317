"""What a process consumes is divided between the calls open at each moment, and nothing is lost or counted twice."""

import pytest

from services.local_models.meter import SharedMeter


class Machine:
    def __init__(self) -> None:
        self.cpu_s = 5.0
        self.ram_bytes = 2_000_000_000
        self.now_s = 100.0

    def work(self, *, cpu_s: float, seconds: float) -> None:
        self.cpu_s += cpu_s
        self.now_s += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def meter(machine: Machine) -> SharedMeter:
    return SharedMeter(cpu_s=lambda: machine.cpu_s, ram_bytes=lambda: machine.ram_bytes, clock_s=lambda: machine.now_s)


def test_a_call_alone_has_everything(meter: SharedMeter, machine: Machine) -> None:
    meter.begin("a")
    machine.work(cpu_s=3.0, seconds=2.0)
    share = meter.end("a")
    assert share is not None
    assert share.cpu_s == pytest.approx(3.0)
    assert share.ram_gb_s == pytest.approx(4.0)  # 2 GB for 2 s


def test_calls_open_together_share_equally_and_their_sum_is_the_whole(meter: SharedMeter, machine: Machine) -> None:
    meter.begin("a")
    machine.work(cpu_s=1.0, seconds=1.0)
    meter.begin("b")
    machine.work(cpu_s=4.0, seconds=2.0)
    first = meter.end("a")
    machine.work(cpu_s=0.5, seconds=1.0)
    second = meter.end("b")
    assert first is not None
    assert second is not None
    assert first.cpu_s == pytest.approx(1.0 + 2.0)
    assert second.cpu_s == pytest.approx(2.0 + 0.5)
    assert first.ram_gb_s + second.ram_gb_s == pytest.approx(2.0 * 4.0)


def test_work_done_with_no_call_open_is_nobodys(meter: SharedMeter, machine: Machine) -> None:
    machine.work(cpu_s=9.0, seconds=60.0)
    meter.begin("a")
    machine.work(cpu_s=1.0, seconds=1.0)
    share = meter.end("a")
    machine.work(cpu_s=9.0, seconds=60.0)
    meter.begin("b")
    nothing = meter.end("b")
    assert share is not None
    assert nothing is not None
    assert share.cpu_s == pytest.approx(1.0)
    assert nothing.cpu_s == 0.0


def test_growing_memory_counts_for_its_mean(meter: SharedMeter, machine: Machine) -> None:
    meter.begin("a")
    machine.ram_bytes = 4_000_000_000
    machine.work(cpu_s=0.0, seconds=2.0)
    share = meter.end("a")
    assert share is not None
    assert share.ram_gb_s == pytest.approx(6.0)


def test_an_unknown_call_has_no_share(meter: SharedMeter) -> None:
    assert meter.end("never begun") is None
