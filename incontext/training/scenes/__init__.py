"""Rendered scenes: images with exact masks, drawn from a seed.

The public names, nothing else: `render_views` and `render_pair` draw one scene several times, `render_clip` and
`move_cutouts` a video.
"""

from incontext.training.scenes.moving import move_cutouts, render_clip
from incontext.training.scenes.scene import render_pair, render_views

__all__ = ["move_cutouts", "render_clip", "render_pair", "render_views"]
