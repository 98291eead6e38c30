"""How many clicks a thing takes: simulated clicks, NoC, IoU after so many, baselines.

Refuses to know networks and devices: what is scored is any function from clicks to masks.
"""

from incontext.evaluation.clicks.scores import ClickColumn, ClickReport, ClickScore
from incontext.evaluation.clicks.scoring import ClickJournal, ClickMethod, Record, evaluate_clicks
from incontext.evaluation.clicks.simulation import Click, Curve, next_click, simulate
from incontext.evaluation.clicks.things import Layout, Thing, read_things

__all__ = [
    "Click",
    "ClickColumn",
    "ClickJournal",
    "ClickMethod",
    "ClickReport",
    "ClickScore",
    "Curve",
    "Layout",
    "Record",
    "Thing",
    "evaluate_clicks",
    "next_click",
    "read_things",
    "simulate",
]
