"""The field's own benchmarks, by their own rules: data found by content, episodes, official scores, published figures.

Refuses to know networks: what is scored is any function from images and prompts to masks, or anything that follows a
video.
"""

from incontext.evaluation.protocols.benchmarks import BENCHMARKS, Benchmark
from incontext.evaluation.protocols.outcome import Figure, Outcome
from incontext.evaluation.protocols.published import FIGURES, Published, published

__all__ = ["BENCHMARKS", "FIGURES", "Benchmark", "Figure", "Outcome", "Published", "published"]
