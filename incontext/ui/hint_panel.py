"""What is clicked on, on the page: an image under its mask and what was said of it, the tools, and their JavaScript.

A browser sends what was done as shares of the image, and shows the answer in the image that it came for. Whatever
comes from users is escaped here. Refuses to know the network.
"""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from typing import Any, Final

import gradio as gr
import numpy as np
from PIL import Image

from incontext.types import Segmentation
from incontext.ui.hinting import IMAGE, Said, Target, plain
from incontext.ui.paint import BRUSHES

THIS, NOT_THIS = "This", "Not this"
WAYS: Final = ("Click", "Box", "Scribble")

CSS: Final = """
.ic-hint { position: relative; cursor: crosshair; outline-offset: 2px; user-select: none; -webkit-user-select: none;
  touch-action: manipulation }
:root[data-ic-way='Scribble'] .ic-hint, :root[data-ic-way='Box'] .ic-hint { touch-action: none }
.ic-hint:focus-visible { outline: 3px solid var(--color-accent) }
.ic-hint img { -webkit-user-drag: none; pointer-events: none }
.ic-said { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; pointer-events: none }
.ic-said [data-id] { stroke: #fff; stroke-width: 2; fill: #1b7f3b; vector-effect: non-scaling-stroke }
.ic-said [data-id='0'] { fill: #c21f3a }
.ic-said rect[data-id], .ic-said polyline[data-id] { fill: none; stroke: #1b7f3b; stroke-width: 3 }
.ic-said rect[data-id='0'], .ic-said polyline[data-id='0'] { stroke: #c21f3a }
.ic-said .ic-cross { stroke: #000; stroke-width: 1.5; fill: #fff8 }
.ic-prepared { max-width: 44em } .ic-prepared > img:first-child { display: block; width: 100%; height: auto }
.ic-prepared .ic-mask { position: absolute; inset: 0; width: 100%; height: 100% }
"""

# Listens on the element that holds the images, which come and go.
POINTING: Final = """
let down = null, path = null, corner = null;
const way = () => document.documentElement.dataset.icWay || 'Click';
const share = (stack, event) => {
  const box = stack.getBoundingClientRect();
  return [[event.clientX - box.left, box.width], [event.clientY - box.top, box.height]]
    .map(([at, length]) => Math.min(1, Math.max(0, at / length)));
};
const near = (one, other, stack) => {
  const box = stack.getBoundingClientRect();
  return Math.hypot((one[0] - other[0]) * box.width, (one[1] - other[1]) * box.height) < 8;
};
const send = (stack, kind, at, not) => {
  window.icShowSaid(stack, kind, at, not ? 0 : null, true);
  trigger('hint', {key: stack.dataset.hint, kind: kind, at: at, not: not});
};
const pick = (stack, at, not) => {
  if (way() !== 'Box') { send(stack, 'click', [at], not); return; }
  if (corner && corner.stack === stack && !near(corner.at, at, stack)) {
    send(stack, 'box', [corner.at, at], not);
    corner = null;
  } else {
    corner = {stack: stack, at: at};
    window.icShowSaid(stack, 'click', [at], not ? 0 : null, true);
  }
};
element.addEventListener('pointerdown', event => {
  const stack = event.target.closest('[data-hint]');
  if (!stack || event.button !== 0) return;
  down = {stack: stack, at: share(stack, event)};
  if (way() === 'Click') return;
  stack.setPointerCapture(event.pointerId);
  if (way() === 'Scribble') path = [down.at];
});
element.addEventListener('pointermove', event => {
  if (!down || !path || path.length >= 2000) return;
  path.push(share(down.stack, event));
  window.icShowSaid(down.stack, 'scribble', path, event.shiftKey ? 0 : null, true);
});
element.addEventListener('pointerup', event => {
  if (!down) return;
  const {stack, at} = down, end = share(stack, event), drawn = path;
  down = path = null;
  if (drawn) send(stack, 'scribble', drawn, event.shiftKey);
  else if (near(at, end, stack)) pick(stack, end, event.shiftKey);
  else if (way() === 'Box') { send(stack, 'box', [at, end], event.shiftKey); corner = null; }
});
element.addEventListener('pointercancel', () => { down = path = null; });
element.addEventListener('contextmenu', event => {
  const stack = event.target.closest('[data-hint]');
  if (!stack) return;
  event.preventDefault();
  pick(stack, share(stack, event), true);
});
element.addEventListener('keydown', event => {
  const stack = event.target.closest('[data-hint]');
  if (!stack || event.ctrlKey || event.metaKey) return;
  const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  const at = [Number(stack.dataset.x || 0.5), Number(stack.dataset.y || 0.5)];
  if (steps[event.key]) {
    const step = event.shiftKey ? 0.1 : 0.02;
    [stack.dataset.x, stack.dataset.y] = at.map((v, i) => Math.min(1, Math.max(0, v + step * steps[event.key][i])));
    window.icShowCross(stack);
  } else if (event.key === 'Enter' || event.key === ' ') {
    pick(stack, at, event.shiftKey);
  } else if (event.key === 'Escape') {
    corner = down = path = null;
    stack.querySelectorAll('.ic-said .ic-new').forEach(each => each.remove());
  } else return;
  event.preventDefault();
});
"""

# Once for the page: how answers and what was said are shown, and the keys for undo and redo.
SHOWING: Final = """
() => {
  const make = (name, values) => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const key in values) made.setAttribute(key, values[key]);
    return made;
  };
  const percent = value => `${100 * value}%`;
  const shape = (kind, at) => {
    if (kind === 'click') return make('circle', {cx: percent(at[0][0]), cy: percent(at[0][1]), r: 6});
    if (kind === 'box') {
      const [[left, right], [top, bottom]] = [0, 1].map(axis => [at[0][axis], at[1][axis]].sort((a, b) => a - b));
      const place = {x: percent(left), y: percent(top), width: percent(right - left), height: percent(bottom - top)};
      return make('rect', place);
    }
    const inner = make('svg', {viewBox: '0 0 1 1', preserveAspectRatio: 'none', width: '100%', height: '100%'});
    const points = (at.length > 1 ? at : [at[0], at[0]]).map(each => each.join(',')).join(' ');
    inner.append(make('polyline', {points: points, 'stroke-linecap': 'round', 'vector-effect': 'non-scaling-stroke'}));
    return inner;
  };
  window.icShowSaid = (stack, kind, at, id, fresh) => {
    const canvas = stack.querySelector('.ic-said');
    if (!canvas) return;
    if (fresh && kind === 'scribble') canvas.querySelectorAll('.ic-new').forEach(each => each.remove());
    if (id === null) id = document.querySelector('#hint-what input:checked')?.value === 'Not this' ? 0 : 1;
    const drawn = shape(kind, at);
    (drawn.tagName === 'svg' ? drawn.firstChild : drawn).setAttribute('data-id', id);
    if (fresh) drawn.classList.add('ic-new');
    canvas.append(drawn);
  };
  window.icShowCross = stack => {
    const canvas = stack.querySelector('.ic-said');
    canvas.querySelectorAll('.ic-cross').forEach(each => each.remove());
    const at = {cx: percent(stack.dataset.x), cy: percent(stack.dataset.y), r: 8, class: 'ic-cross'};
    canvas.append(make('circle', at));
  };
  const answers = new Map();
  const apply = (stack, answer) => {
    stack.dataset.answers = answer.number;
    stack.querySelector('.ic-mask').src = answer.mask;
    const sure = stack.querySelector('.ic-sure');
    if (sure && answer.sure) sure.src = answer.sure;
    stack.querySelectorAll('.ic-said > :not(.ic-cross)').forEach(each => each.remove());
    answer.said.forEach(each => window.icShowSaid(stack, each.kind, each.at, each.id, false));
    const caption = stack.closest('.ic-card')?.querySelector('.ic-found');
    if (caption && answer.found) caption.innerHTML = answer.found;
  };
  window.icAnswer = answer => {
    if (!answer || answer.key === undefined) return;
    answers.set(answer.key, answer);
    document.querySelectorAll(`[data-hint='${CSS.escape(answer.key)}']`).forEach(stack => apply(stack, answer));
  };
  // Results come one by one, and each time all of them are drawn anew: what was answered by then is put back.
  const results = document.getElementById('results');
  new MutationObserver(() => results.querySelectorAll('[data-hint]:not([data-answers])').forEach(stack => {
    const answer = answers.get(stack.dataset.hint);
    if (answer) apply(stack, answer);
  })).observe(results, {childList: true, subtree: true});
  document.getElementById('segment').addEventListener('click', () => answers.clear(), true);
  document.addEventListener('keydown', event => {
    const focus = document.activeElement;
    const typing = focus && (focus.closest('.image-container, [data-testid=image-editor], #editor, #frame-editor') ||
      (focus.matches('input, textarea') && !['radio', 'checkbox', 'range', 'button'].includes(focus.type)));
    if (typing || !(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    const wanted = key === 'y' || (key === 'z' && event.shiftKey) ? 'hint-redo' : key === 'z' ? 'hint-undo' : null;
    const button = wanted && document.getElementById(wanted);
    if (!button || button.offsetParent === null) return;
    event.preventDefault();
    button.click();
  });
}
"""
ANSWERED: Final = "answer => { window.icAnswer(answer); }"
SET_WAY: Final = "way => { document.documentElement.dataset.icWay = way; }"

_EMPTY: Final = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


class Tools:
    """What is said, how, of which id; undo and redo. Built in the present Blocks."""

    def __init__(self) -> None:
        with gr.Row(elem_id="hint-tools"):
            self.what = gr.Radio([THIS, NOT_THIS], value=THIS, label="Say", elem_id="hint-what", min_width=180)
            self.way = gr.Radio(list(WAYS), value=WAYS[0], label="by", elem_id="hint-way", min_width=240)
        with gr.Row(equal_height=True):
            ids = list(range(1, len(BRUSHES) + 1))
            self.id = gr.Dropdown(ids, value=1, label="Id", elem_id="hint-id", min_width=100)
            self.undo = gr.Button("Undo", elem_id="hint-undo", min_width=80)
            self.redo = gr.Button("Redo", elem_id="hint-redo", min_width=80)
        self.answer = gr.JSON(None, visible="hidden", elem_id="hint-answer")

    def connect(self) -> None:
        """Connect what needs no server."""
        self.way.change(None, [self.way], None, js=SET_WAY, queue=False)


def said_of(data: gr.EventData) -> tuple[Said, bool]:
    """Read what was done, and whether by itself it means "not this".

    Raises:
        ValueError: It is anything else.
    """
    said = Said.of(getattr(data, "key", None), getattr(data, "kind", None), getattr(data, "at", None))
    return said, bool(getattr(data, "not", False))


def stack(key: str, image: str, name: str, mask: str = _EMPTY) -> str:
    """Show an image to click on, under its mask.

    Args:
        image, mask: addresses.
    """
    shown = escape(name)
    return (
        f'<div class="ic-stack ic-hint" data-hint="{escape(key)}" tabindex="0" role="application" '
        f'aria-label="{shown}: click on what you mean, or move with the arrow keys and press Enter; with Shift: '
        f'not this"><img src="{image}" alt="" draggable="false">'
        f'<img class="ic-mask" src="{mask}" alt="What was found in {shown}" draggable="false">'
        '<svg class="ic-said" aria-hidden="true"></svg></div>'
    )


def prepared(image: str, name: str) -> str:
    """Show the image that is being prepared as an example."""
    return stack(IMAGE, image, name).replace("ic-stack ic-hint", "ic-stack ic-hint ic-prepared", 1)


def shown_answer(key: str, target: Target | None, found: str, number: int) -> dict[str, Any]:
    """Describe what a browser shows of an answer.

    Args:
        found: HTML of what was found.
        number: Of answers so far.
    """
    answer = None if target is None else target.answer()
    said = [] if target is None else plain(target.drawn)
    mask = _EMPTY if answer is None else _address(answer)
    return {"key": key, "mask": mask, "said": said, "found": found, "number": number}


def shown_result(key: str, mask: str, sure: str, found: str, number: int) -> dict[str, Any]:
    """Describe what a browser shows of a result that was put in the place of another.

    Args:
        key: Of the result.
        mask: The address of its miniature.
        sure: The address of its confidence.
        found: HTML of what is in it.
        number: Of answers so far.
    """
    return {"key": key, "mask": mask, "sure": sure, "said": [], "found": found, "number": number}


def _address(answer: Segmentation) -> str:
    """Write a mask's colours, clear where nothing was found, as an address that holds them."""
    ids = answer.mask
    if ids.any():
        table = answer.palette.table.copy()
        table[0] = 0
        image = Image.fromarray(ids, mode="P")
        image.putpalette(table.tobytes())
        stream = BytesIO()
        image.save(stream, "PNG", transparency=0, compress_level=1)
        return "data:image/png;base64," + b64encode(stream.getvalue()).decode()
    return _EMPTY


def image_address(image: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    """Write a small image (H, W, 3) as an address that holds it."""
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=88)
    return "data:image/jpeg;base64," + b64encode(stream.getvalue()).decode()
