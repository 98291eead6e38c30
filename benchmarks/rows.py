"""What the ladder compares, row by row: transformers' SegGPT, the published way with savings added, and incontext.

All rows get the same weights and the same tensors, on the device, in their own dtype, and give the painted answers.
A row is two functions: what is done once for a context, and what is done for each batch of queries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from naive import NAIVE, Network, Savings
from naive import ladder as savings_one_by_one
from torch import Tensor

from incontext.network.config import ModelConfig
from incontext.network.kernels import KERNELS
from incontext.network.layouts import transformers_name
from incontext.network.model import SegGPT
from incontext.network.reference import Reference

Kind = Literal["transformers", "naive", "incontext"]
COMPILED_BATCHES = (1, 8)  # each has to be compiled for itself
SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16"}
ALL_SAVINGS = list(savings_one_by_one().values())[-1]  # those of incontext


@dataclass(frozen=True)
class Row:
    """One way to compute the answers."""

    name: str
    kind: Kind
    dtype: torch.dtype = torch.float32
    savings: Savings = NAIVE
    kernel: str = "auto"  # of incontext
    compiled: bool = False
    kept: bool = True  # the context is prepared before the clock starts, as in a folder of queries
    batched: bool = False  # measured at every batch size, the others at one query alone
    rank: int = 2  # low ones run first: what the errors refer to, the essential, the ladder, what takes minutes

    @property
    def compiles(self) -> bool:
        """Its first call takes up to minutes, for every shape anew."""
        return self.compiled or self.kernel == "flex"

    def batch_sizes(self, shots: int, given: Sequence[int]) -> Sequence[int]:
        """Those of the given ones that this row is measured at.

        transformers' batch axis is that of the shots: with several it takes one query at a time.
        """
        if not self.batched or (self.kind == "transformers" and shots > 1):
            return (1,)
        return [size for size in given if size in COMPILED_BATCHES or not self.compiles]


def rows(device: torch.device, *, compiled: bool) -> list[Row]:
    """The ladder, in the order in which it is read. compiled: with torch.compile, which takes minutes."""
    bf16 = torch.bfloat16
    table = [
        Row("transformers fp32", "transformers", batched=True, rank=1),
        Row("transformers bf16", "transformers", bf16, batched=True, rank=1),
        Row("naive fp32", "naive", rank=0),
        *(
            Row(f"+ {name.replace('_', ' ').replace('sdpa', 'SDPA')}", "naive", savings=savings)
            for name, savings in savings_one_by_one().items()
        ),
        Row("incontext fp32", "incontext", rank=1),
        Row("incontext fp32 (context not kept)", "incontext", kept=False),
        *(
            Row(f"incontext bf16 {kernel}", "incontext", bf16, kernel=kernel, rank=4 if kernel == "flex" else 2)
            for kernel in _kernels(device)
        ),
        Row("incontext bf16", "incontext", bf16, batched=True, rank=1),
    ]
    if compiled:
        table += [
            Row("transformers fp32 compiled", "transformers", compiled=True, rank=5),
            Row("transformers bf16 compiled", "transformers", bf16, compiled=True, rank=5),
            Row("incontext bf16 compiled", "incontext", bf16, compiled=True, batched=True, rank=4),
        ]
    return table


def _kernels(device: torch.device) -> list[str]:
    """Those that run there and could win."""
    left_out = {"plain", "pieces"} if device.type == "cuda" else {"plain", "flex"}
    return [name for name in KERNELS if name not in left_out]


class Inputs(NamedTuple):
    """Normalised noise: one context for all queries, whose first is the same in a batch of any size."""

    images: Tensor  # (1, N, 3, side, side)
    masks: Tensor  # (1, N, 3, side, side)
    queries: Tensor  # (B, 3, side, side)

    @classmethod
    def draw(cls, shots: int, batch: int, side: int, device: torch.device) -> Inputs:
        """float32."""
        image = (3, side, side)
        queries, images, masks = (
            torch.stack([torch.randn(image, generator=torch.Generator().manual_seed(first + i)) for i in range(count)])
            for first, count in ((0, batch), (1000, shots), (2000, shots))
        )
        return cls(images[None].to(device), masks[None].to(device), queries.to(device))

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same in another dtype."""
        return Inputs(*(each.to(dtype) for each in self))


class Answering(NamedTuple):
    """A row made ready: ``answer(queries, prepare(images, masks))`` is (B, 3, side, side)."""

    prepare: Callable[[Tensor, Tensor], Any]
    answer: Callable[[Tensor, Any], Tensor]


class Models:
    """The one set of weights in every form that the rows need, each made when it is first asked for."""

    def __init__(self, model: SegGPT) -> None:
        self.model = model
        self._networks: dict[tuple[torch.dtype, bool], SegGPT] = {}

    @property
    def config(self) -> ModelConfig:
        """That of the network."""
        return self.model.config

    def _network(self, row: Row) -> SegGPT:
        """Shares weights that have the dtype already. incontext gets the layout that the Segmenter gives it."""
        ours = row.kind == "incontext"
        key = (row.dtype, ours)
        if key not in self._networks:
            network = _empty(self.config)
            tensors = {name: value.to(row.dtype) for name, value in self.model.state_dict().items()}
            network.load_state_dict(tensors, assign=True)
            if ours:
                network.decoder_pred.to(memory_format=torch.channels_last)
            self._networks[key] = network.eval()
        return self._networks[key]

    def bytes(self, dtype: torch.dtype) -> int:
        """Of the weights."""
        return sum(parameter.numel() for parameter in self.model.parameters()) * dtype.itemsize

    def ready(self, row: Row) -> Answering:
        """How that row computes its answers."""
        model = self._network(row)
        if row.kind == "naive" and row.savings == NAIVE:
            reference = Reference(model)
            return Answering(
                lambda images, masks: (images, masks), lambda queries, shown: reference(shown[0], shown[1], queries)
            )
        if row.kind == "naive":
            network = Network(model, row.savings)
            return Answering(network.prepare, network.answer)
        if row.kind == "transformers":
            theirs: Any = transformers_model(model)
            return Answering(
                lambda images, masks: (images[0], masks[0]),
                TransformersAnswer(torch.compile(theirs, dynamic=False) if row.compiled else theirs),
            )
        model.kernel = row.kernel
        tables = model.tables(model.config.grid)
        answer = torch.compile(model.answer, dynamic=False) if row.compiled else model.answer
        return Answering(lambda images, masks: model.prepare(images, masks, tables=tables), answer)


@dataclass(frozen=True)
class TransformersAnswer:
    """transformers' SegGptForImageSegmentation as its users call it: N shots of a query are a batch of N."""

    model: Any

    def __call__(self, queries: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
        """(B, 3, side, side) at one shot, (1, 3, side, side) at several -> the same."""
        images, masks = context
        count, side = max(len(images), len(queries)), queries.shape[-1]
        shape = (count, -1, -1, -1)
        painted: Tensor = self.model(
            pixel_values=queries.expand(shape),
            prompt_pixel_values=images.expand(shape),
            prompt_masks=masks.expand(shape),
            embedding_type="instance",
            feature_ensemble=len(images) > 1,
        ).pred_masks
        return painted[: len(queries), :, side:]


def transformers_model(model: SegGPT) -> Any:
    """transformers' network with these very tensors, not copies of them.

    Raises:
        ImportError: transformers is not installed.
    """
    from transformers import SegGptConfig, SegGptForImageSegmentation

    config = model.config
    with torch.device("meta"):
        theirs = SegGptForImageSegmentation(
            SegGptConfig(
                hidden_size=config.width,
                num_attention_heads=config.heads,
                num_hidden_layers=config.depth,
                patch_size=config.patch,
                image_size=[2 * config.side, config.side],
                pretrain_image_size=config.pretrain_side,
                decoder_hidden_size=config.decoder_width,
                mlp_dim=round(config.width * config.mlp_ratio),
                merge_index=config.merge_layer,
                intermediate_hidden_state_indices=list(config.taps),
                layer_norm_eps=config.norm_eps,
            )
        )
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("presence.")}
    tensors = {transformers_name(name): value for name, value in own.items()}
    theirs.load_state_dict(tensors, strict=True, assign=True)
    return theirs.eval()  # type: ignore[no-untyped-call]


def random_large(device: torch.device) -> SegGPT:
    """The published large network with random weights: speed does not depend on their values."""
    model = _empty(ModelConfig()).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name or name == "decoder_pred.1.weight":
                parameter.fill_(1.0)
            else:  # relative positions that matter beside the scores
                parameter.normal_(std=0.1 if "rel_pos" in name else 0.02, generator=generator)
    return model.eval()


def _empty(config: ModelConfig) -> SegGPT:
    with torch.device("meta"):
        return SegGPT(config)
