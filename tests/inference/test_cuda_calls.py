"""What is asked of torch.cuda, with its functions replaced: order, arithmetic, and failures."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from inference.runners import cuda_forward, cuda_setup, warm_up
from inference.runners.cuda_forward import CudaGraphs
from inference.runners.device import float_type, has_bfloat16, use_device

GPU = torch.device("cuda", 1)
MIB = 2**20


class FakeCuda:
    """A device whose streams are names; `log` is what was asked of it."""

    def __init__(self):
        self.log = []
        self.current = self._stream("usual")
        self.fails = False

    def _stream(self, name):
        return SimpleNamespace(
            name=name, wait_stream=lambda other: self.log.append(f"{name} waits for {other.name}")
        )

    def Stream(self, device):  # noqa: N802 - torch's name
        return self._stream("side")

    def graph_pool_handle(self):
        return "pool"

    def current_stream(self, device=None):
        return self.current

    def set_stream(self, stream):
        self.current = stream

    @contextmanager
    def device(self, device):
        assert device == GPU
        yield

    @contextmanager
    def stream(self, stream):
        usual, self.current = self.current, stream
        yield
        self.current = usual

    def CUDAGraph(self):  # noqa: N802 - torch's name
        return SimpleNamespace(replay=lambda: self.log.append("replay"))

    @contextmanager
    def graph(self, graph, *, pool, stream, capture_error_mode):
        assert (pool, stream.name, capture_error_mode) == ("pool", "side", "thread_local")
        usual, self.current = self.current, stream
        self.log.append("begin")
        yield  # like torch's, it leaves its stream in place when the end fails
        if self.fails:
            raise RuntimeError("capture failed")
        self.log.append("end")
        self.current = usual


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(cuda_forward, "torch", SimpleNamespace(cuda=fake))
    return fake


def test_a_graph_is_warmed_on_the_stream_it_is_captured_on(cuda):
    graphs = CudaGraphs(GPU)
    graphs.warm(lambda: cuda.log.append(f"body on {cuda.current.name}"))
    replay = graphs.capture(lambda: cuda.log.append(f"body on {cuda.current.name}"))
    replay()
    assert cuda.log == [
        "side waits for usual",
        "body on side",
        "usual waits for side",
        "begin",
        "body on side",
        "end",
        "replay",
    ]
    assert cuda.current.name == "usual"


def test_a_failed_capture_gives_the_thread_its_stream_back(cuda):
    cuda.fails = True
    with pytest.raises(RuntimeError, match="capture failed"):
        CudaGraphs(GPU).capture(lambda: None)
    assert cuda.current.name == "usual"


def test_the_cache_may_take_what_is_free_less_workspace_and_margin(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (900 * MIB, 1000 * MIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 150 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 50 * MIB)
    assert cuda_setup.room_on(GPU, 80 * MIB) == (900 + 100 - 80 - 20) * MIB


def test_a_step_is_measured_by_what_torch_reserves_for_it(monkeypatch):
    log = []
    for name in ("empty_cache", "reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *device, name=name: log.append(name))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 170)
    forward = SimpleNamespace(run=lambda *step: log.append(step))
    assert warm_up._measured(GPU, forward, [], ["chunk"], ["request"]) == 70
    wanted = ["empty_cache", "reset_peak_memory_stats", ([], ["chunk"], ["request"]), "synchronize"]
    assert log == wanted


def test_bfloat16_is_the_default_where_the_device_computes_in_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for real in (True, False):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, real=real: real
        )
        assert has_bfloat16("cuda:0") is real
        wanted = torch.bfloat16 if real else torch.float32
        assert float_type("cuda:0", "auto") is wanted


def test_a_thread_takes_the_device_it_works_for(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    use_device(torch.device("cpu"))
    use_device(torch.device("cuda"))
    use_device(GPU)
    assert taken == [GPU]
