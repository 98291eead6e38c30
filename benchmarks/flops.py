"""How many floating-point operations an answer takes, counted from the shapes of its products and convolutions.

Counts what the mathematics asks for with given savings: the wider queries and keys of a folded kernel, the elementwise
work and the softmax are not in it, so that a share of the card's matrix rate is never flattered. The tests compare it
with PyTorch's own count.
"""

from __future__ import annotations

from naive import Savings

from incontext.network.config import ModelConfig


def flops(config: ModelConfig, shots: int, savings: Savings) -> int:
    """Operations (a multiplication and an addition are two) for one query, its context prepared."""
    grid = config.grid
    half = grid * grid  # tokens
    halves = shots + 1 if savings.shared_query else 2 * shots
    total = 0
    for index in range(config.depth):
        last = savings.last_block and index == config.taps[-1]
        streams = 2 if index <= config.merge_layer and not savings.cached_masks else 1
        total += streams * _block(config, shots, savings, grid, last)
        if last:
            break
    embedded = halves * half
    if not savings.cached_masks:
        embedded += (shots if savings.shared_query else 2 * shots) * half  # a shared query's mask token is no product
    total += 2 * embedded * 3 * config.patch**2 * config.width
    return total + _decoder(config, shots, savings, grid)


def _block(config: ModelConfig, shots: int, savings: Savings, grid: int, last: bool) -> int:
    half, width, hidden = grid * grid, config.width, round(config.width * config.mlp_ratio)
    tokens = (shots + 1 if savings.shared_query else 2 * shots) * half
    halo = grid if last else half  # tokens of a prompt whose outputs are wanted
    wanted = half + grid if last else tokens
    projected = shots * (half + grid) if last and not savings.shared_query else wanted
    per_token = 2 * width * 3 * width * tokens + 2 * width * width * projected + 2 * 2 * width * hidden * wanted

    if savings.merged_attention and shots > 1:
        prompts = 1 if last else shots  # whose rows are wanted
        pairs = half * half * (shots + 1) + prompts * halo * 2 * half
        bias = (half + prompts * halo) * 3 * grid  # to the rows of both halves, and to their columns
    else:
        pairs = shots * (half + halo) * 2 * half
        bias = shots * (half + halo) * 3 * grid
    return per_token + 2 * 2 * width * pairs + 2 * width * bias


def _decoder(config: ModelConfig, shots: int, savings: Savings, grid: int) -> int:
    width, patch, channels = grid, config.patch, config.decoder_width
    rows, lines, canvases = 2 * grid, 2 * grid * patch, shots
    if savings.query_decode:
        rows, lines, canvases = grid + 1, grid * patch + 1, 1
    embed = 2 * rows * width * len(config.taps) * config.width * patch**2 * channels
    pixels = 2 * lines * width * patch * (9 * channels**2 + 3 * channels)
    return canvases * (embed + pixels)
