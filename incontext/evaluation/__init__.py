"""How good the masks are: metrics, few-shot episodes, baselines, reports.

Refuses to know networks and devices: what is scored is any function from queries and their prompts to masks.
"""

from incontext.evaluation.few_shot.episodes import Absent, Episode, EpisodeSet, read_episodes, read_sets
from incontext.evaluation.few_shot.records import AnswerJournal
from incontext.evaluation.few_shot.scores import AbsenceReport, Column, ConfidenceReport, FewShotReport, SetScore
from incontext.evaluation.few_shot.scoring import Method, evaluate

__all__ = [
    "AbsenceReport",
    "Absent",
    "AnswerJournal",
    "Column",
    "ConfidenceReport",
    "Episode",
    "EpisodeSet",
    "FewShotReport",
    "Method",
    "SetScore",
    "evaluate",
    "read_episodes",
    "read_sets",
]
