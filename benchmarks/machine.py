"""What the machine gives at best, and what a whole folder job makes of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import psutil
import torch
from rows import Inputs

from incontext.bench import timed
from incontext.engine import Segmenter
from incontext.folder import plan, segment_folder
from incontext.images.write import write_image
from incontext.network.model import SegGPT
from incontext.types import Prompt

HEIGHT, WIDTH = 480, 640  # of a photograph


def free_bytes(device: torch.device) -> int:
    """Memory that is free, on the card or in the machine."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


@torch.inference_mode()
def matrix_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = 2.0) -> float:
    """TFLOP/s of a large matrix product of random numbers: what the arithmetic gives at best."""
    size, repeats = (8192, 20) if device.type == "cuda" else (2048, 1)
    left, right = torch.randn(2, size, size, device=device).to(dtype)

    def products() -> None:
        for _ in range(repeats):
            torch.matmul(left, right)

    timing = timed(products, device, seconds=seconds)
    return 2 * size**3 * repeats / timing.median / 1e12


def photographs(folder: Path, count: int) -> list[Path]:
    """Smooth noise as JPEGs of 640 x 480, about as many bytes as photographs have."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    paths = [folder / f"{number:04}.jpg" for number in range(count)]
    for path in paths:
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 48, 64)))
        smooth = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic")[0].permute(1, 2, 0)
        grainy = smooth.numpy() + rng.normal(0, 4, (HEIGHT, WIDTH, 3))
        write_image(path, grainy.clip(0, 255).astype(np.uint8))
    return paths


def folder_rate(
    model: SegGPT, device: torch.device, *, batch_size: int, images: int, seconds: float
) -> dict[str, object]:
    """Images per second of a folder job, files to files, and of its network alone at the same batch size.

    One shot, in the dtype that the device usually has. Leaves the model in that dtype. images: how many JPEGs.
    seconds: about how long to time the network.
    """
    model.kernel = "auto"
    segmenter = Segmenter(model, device=str(device))
    inputs = Inputs.draw(1, batch_size, model.config.side, device).to(segmenter.dtype)
    with torch.inference_mode():
        context = model.prepare(inputs.images, inputs.masks)
        alone = timed(lambda: model.answer(inputs.queries, context), device, seconds=seconds, least=1)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[100:300, 200:400] = 1
    prompt = Prompt(np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), mask)
    with tempfile.TemporaryDirectory() as name:
        paths = photographs(Path(name, "photographs"), images)
        list(segmenter.segment_many(paths[:batch_size], prompt, batch_size=batch_size))  # warms up
        job = plan([paths[0].parent], Path(name, "masks"))
        report = segment_folder(segmenter, job, prompt, batch_size=batch_size)
    network = batch_size / alone.median
    return {
        "images": images,
        "batch": batch_size,
        "dtype": str(segmenter.dtype).removeprefix("torch."),
        "images_per_second": report.images_per_second,
        "network_images_per_second": network,
        "share": report.images_per_second / network,
        "waiting_seconds": report.waiting_seconds,
        "failed": report.failed,
    }
