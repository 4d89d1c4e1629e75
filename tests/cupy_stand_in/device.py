"""``cupy.cuda.Device``, ``cupy.cuda.runtime``: two devices of compute capability 9.0."""

from __future__ import annotations

DEVICES = 2
ATTRIBUTES = {  # of an H200, as CUDA names them
    "ClockRate": 1_980_000,
    "MaxBlockDimX": 1024,
    "MaxBlockDimY": 1024,
    "MaxBlockDimZ": 64,
    "MaxGridDimX": 2**31 - 1,
    "MaxGridDimY": 65535,
    "MaxGridDimZ": 65535,
    "MaxSharedMemoryPerBlock": 48 * 1024,
    "MaxSharedMemoryPerBlockOptin": 227 * 1024,
    "MaxThreadsPerBlock": 1024,
    "MultiProcessorCount": 132,
    "WarpSize": 32,
}


class CUDARuntimeError(RuntimeError):
    """``cupy.cuda.runtime.CUDARuntimeError``."""

    def __init__(self, text):
        super().__init__(text)
        self.status = 999


class CUDADriverError(RuntimeError):
    """``cupy.cuda.driver.CUDADriverError``."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


class Device:
    """``cupy.cuda.Device``: compared by its number, not hashable, and a context."""

    _current = 0
    __hash__ = None

    def __init__(self, device=None):
        self.id = Device._current if device is None else int(device)
        if not 0 <= self.id < DEVICES:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self._before = []

    @property
    def compute_capability(self):
        return "90"

    @property
    def attributes(self):
        return dict(ATTRIBUTES)

    @property
    def mem_info(self):
        from . import memory

        return memory.TOTAL - memory.get_default_memory_pool().total_bytes(), memory.TOTAL

    def use(self):
        Device._current = self.id

    def synchronize(self):
        from . import streams

        streams.synchronize()

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def __enter__(self):
        self._before.append(Device._current)
        Device._current = self.id
        return self

    def __exit__(self, *error):
        Device._current = self._before.pop()


class Runtime:
    """``cupy.cuda.runtime``."""

    CUDARuntimeError = CUDARuntimeError

    @staticmethod
    def getDeviceCount():
        return DEVICES

    @staticmethod
    def getDevice():
        return Device._current

    @staticmethod
    def setDevice(device):
        Device(device).use()

    @staticmethod
    def getDeviceProperties(device):
        return {
            "name": b"a stand-in for a GPU",
            "major": 9,
            "minor": 0,
            "multiProcessorCount": 132,
            "totalGlobalMem": Device(device).mem_info[1],
            "sharedMemPerBlockOptin": 227 * 1024,
        }

    @staticmethod
    def deviceGetPCIBusId(device):
        return f"0000:{0x3B + Device(device).id:02X}:00.0"

    @staticmethod
    def memGetInfo():
        return Device().mem_info

    @staticmethod
    def deviceSynchronize():
        Device().synchronize()

    @staticmethod
    def driverGetVersion():
        return 13000

    @staticmethod
    def runtimeGetVersion():
        return 13000
