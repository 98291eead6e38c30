"""Where the network runs and how precisely: names to PyTorch devices and dtypes.

Never falls back to another device than asked for. Refuses to know networks and images.
"""

import ctypes
import platform

import torch

from incontext.options import DeviceName, DtypeName
from incontext.words import did_you_mean

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h, in bytes
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: DeviceName) -> torch.device:
    """Find the PyTorch device of that name. It never falls back to another one than asked for."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        meant = did_you_mean(name, ("auto", "cpu", "cuda", "mps"))
        raise ValueError(f'expected a device such as "auto", "cpu" or "cuda:0", got {name!r}{meant}') from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} was asked for, but PyTorch sees {torch.cuda.device_count()} CUDA devices; "
            "install a driver and a CUDA build of PyTorch, or ask for the CPU"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {name!r} was asked for, but PyTorch sees no Metal device here; ask for the CPU")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"expected a cpu, cuda or mps device, got {name!r}")
    return device


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Choose the precision of that name; "auto" is the fastest that the hardware computes without overflow."""
    if name != "auto":
        if name not in _DTYPES:
            meant = did_you_mean(name, _DTYPES)
            raise ValueError(f"expected a dtype among auto, {', '.join(_DTYPES)}; got {name!r}{meant}")
        return _DTYPES[name]
    if device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()):  # noqa: SLF001
        return torch.bfloat16
    return torch.float32


def products_in(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Compute matrix products and convolutions of float32 tensors in that precision within the block."""
    reduced = dtype != torch.float32
    return torch.autocast(device.type, dtype if reduced else None, enabled=reduced)


def keep_freed_memory() -> None:
    """Let this process keep what it frees instead of giving it back to the system, where the C library is glibc's.

    What is given back is paged in anew, zeroed, at each step: with gradients that costs more than the network. For
    processes that do nothing else, as memory stays at its peak.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
