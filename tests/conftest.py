"""Fixtures that several test files use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from incontext.network.config import ModelConfig

ROOT = Path(__file__).resolve().parents[1]


# Files that take long, longest first: with several workers none of them is to begin when the others are done.
LONGEST = (
    "test_ray",
    "test_ui_browser",
    "test_ui_kept",
    "test_ui_hints",
    "test_training",
    "test_ui_server",
    "test_engine",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))  # which keeps the order inside of a file
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """The tensors are tiny: a thread for every core of a big machine makes them slower."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    """Every test sees the same random numbers, whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data folder beside the checkout: photographs with masks, golden numbers. Not part of the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder shared/ beside the checkout, which is not part of the repository")
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Numbers made by running the published network."""
    folder = shared / "golden"
    if not folder.is_dir():
        pytest.skip("needs the folder shared/golden/ beside the checkout, which is not part of the repository")
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """A network of 4 blocks on 32-pixel images: every feature of the large one, milliseconds per forward."""
    return ModelConfig(
        width=32,
        heads=2,
        depth=4,
        patch=8,
        side=32,
        decoder_width=8,
        mlp_ratio=2.0,
        merge_layer=1,
        taps=(1, 3),
        pretrain_side=24,
    )
