"""How good the masks are: metrics, fixed few-shot episodes, baselines, reports.

Refuses to know networks and devices: what is scored is any function from a query and its prompts to a mask.
"""

from incontext.evaluation.few_shot import (
    ConfidenceReport,
    Episode,
    EpisodeSet,
    FewShotReport,
    SetReport,
    evaluate,
    read_episodes,
)

__all__ = [
    "ConfidenceReport",
    "Episode",
    "EpisodeSet",
    "FewShotReport",
    "SetReport",
    "evaluate",
    "read_episodes",
]
