"""The page's pieces that are the same everywhere: cards and rows as HTML, styles, and how a handler answers.

Whatever comes from users is escaped here. Refuses to know jobs.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import gradio as gr

from incontext.ui.guard import VISITOR
from incontext.ui.paint import BRUSHES, brush_names
from incontext.ui.sessions import Example, SegmentedImage, Session, Sessions
from incontext.words import counted

CSS: Final = """
.ic-note { opacity: .8; font-size: .95em }
.ic-legend { display: flex; flex-wrap: wrap; gap: .3em 1em; font-size: .95em }
.ic-legend i { display: inline-block; width: 1em; height: 1em; border-radius: 50%; border: 1px solid #8888;
  vertical-align: -.15em; margin-right: .3em }
.ic-row { display: flex; flex-wrap: wrap; gap: .6em }
.ic-row figure { margin: 0; max-width: 10.5em; font-size: .85em; overflow-wrap: anywhere }
.ic-row img, .ic-row svg { display: block; max-width: 10em; max-height: 8em; border-radius: 4px }
.ic-grid { display: grid; gap: 1em; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26em), 1fr)) }
.ic-card { margin: 0; border: 1px solid var(--border-color-primary); border-radius: 6px; padding: .5em;
  content-visibility: auto; contain-intrinsic-size: auto 16em }
.ic-pair { display: flex; gap: .4em; align-items: flex-start }
.ic-pair > * { flex: 1 1 0; min-width: 0 }
.ic-pair img { display: block; width: 100%; height: auto; margin: 0 }
.ic-stack { position: relative }
.ic-stack .ic-mask, .ic-stack .ic-sure { position: absolute; inset: 0; height: 100%; image-rendering: pixelated }
.ic-mask { opacity: var(--ic-opacity, .5) }
.ic-sure { visibility: var(--ic-sure, hidden) }
.ic-card figcaption { margin-top: .4em; display: flex; flex-wrap: wrap; gap: .2em .8em; align-items: center;
  overflow-wrap: anywhere }
.ic-found { display: contents }
.ic-swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; border: 1px solid #8888 }
.ic-button { padding: .3em .7em; font-size: .9em !important; font-weight: 500 !important;
  border: 1px solid var(--border-color-primary); border-radius: 6px; cursor: pointer;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color) }
.ic-button:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 1px }
.ic-problem { color: var(--error-text-color, #b3261e) }
.ic-frame img { width: min(100%, 44em); height: auto; display: block }
.ic-chart { overflow-x: auto } .ic-chart svg { max-width: 100%; height: auto }
.ic-chart text { fill: currentColor; stroke: none } .ic-chart .grid { stroke: currentColor; opacity: .18 }
.ic-chart .line { fill: none; stroke: var(--color-accent); stroke-width: 2 }
.ic-chart .line.b { stroke: #d97706 }
.ic-table td { padding: .15em 1em .15em 0; vertical-align: top; overflow-wrap: anywhere }
"""

# One listener for all cards: buttons come and go with the cards.
CARD_CLICKS: Final = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-accept], [data-edit], [data-remove]');
  if (!button) return;
  if (button.dataset.accept !== undefined) trigger('accept', {number: Number(button.dataset.accept)});
  if (button.dataset.edit !== undefined) trigger('edit', {number: Number(button.dataset.edit)});
  if (button.dataset.remove !== undefined) trigger('remove', {number: Number(button.dataset.remove)});
});
"""
SET_OPACITY: Final = "(value) => { document.documentElement.style.setProperty('--ic-opacity', value / 100); }"
SET_VIEW: Final = """(value) => {
  document.documentElement.style.setProperty('--ic-sure', value === 'Confidence' ? 'visible' : 'hidden'); }"""


# -------------------------------------------------------------------------------------------- answers


class Answers:
    """Handlers for Gradio made of functions of a session: errors of the user become the engine's own sentences."""

    def __init__(self, sessions: Sessions, root: Path) -> None:
        self._sessions = sessions
        # Uploads lie in folders with names that say nothing to anyone; what is left is the file's own name.
        self._folders = re.compile(re.escape(str(root)) + r"/(?:sessions/)?(?:[\w-]+/)+")

    def once(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap call(session, *values), which returns the outputs."""

        def handler(request: gr.Request, *values: Any) -> Any:
            with self._told():
                return call(self._sessions.of(_visitor(request)), *values)

        return _typed(handler)

    def again(self, call: Callable[[Session], tuple[Any, ...]], outputs: int) -> Callable[..., Any]:
        """Wrap call(session) for a page that is opened: so many outputs, which stay where nobody was there before."""

        def handler(request: gr.Request) -> Any:
            session = self._sessions.known(_visitor(request))
            with self._told():
                return tuple(gr.skip() for _ in range(outputs)) if session is None else call(session)

        return _typed(handler)

    def event(self, call: Callable[..., Any], read: Callable[[gr.EventData], Any] | None = None) -> Callable[..., Any]:
        """Wrap call(session, the card's number or what `read` makes of the event, *values): the outputs."""

        def handler(request: gr.Request, data: gr.EventData, *values: Any) -> Any:
            with self._told():
                return call(self._sessions.of(_visitor(request)), (read or _number)(data), *values)

        return _typed(handler)

    def stream(self, call: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
        """Wrap call(session, *values), which yields the outputs as they come."""

        async def handler(request: gr.Request, *values: Any) -> AsyncIterator[Any]:
            with self._told():
                async for outputs in call(self._sessions.of(_visitor(request)), *values):
                    yield outputs

        return _typed(handler)

    def leave(self) -> Callable[..., None]:
        """Hear the end of a visit."""

        def handler(request: gr.Request) -> None:
            self._sessions.leave(_visitor(request))

        return _typed(handler)

    def plain(self, sentence: str) -> str:
        """Write a sentence without the folders in which uploads lie."""
        return self._folders.sub("", sentence)

    def warn(self, sentence: str) -> None:
        """Show what the user should know of a job that goes on."""
        gr.Warning(escape(self.plain(sentence)))

    def _told(self) -> _Told:
        return _Told(self)


class _Told:
    """Turns errors of the user into a message on the page."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.strerror and error.filename:
            sentence = f"{error.filename}: {error.strerror}"
        elif isinstance(error, ValueError | OSError):
            sentence = str(error)
        else:
            return
        shown = escape(self._answers.plain(sentence))
        raise gr.Error(shown, duration=20, print_exception=False) from None


def _typed(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Annotate for Gradio, which finds a request by its annotation, a string in this module."""
    kinds = {"request": gr.Request, "data": gr.EventData}
    handler.__annotations__ = {name: kinds[name] for name in handler.__annotations__ if name in kinds}
    return handler


def _visitor(request: gr.Request) -> str | None:
    """Tell visitors apart: by the name that their browser keeps, else by the page that is shown."""
    kept: str | None = dict(getattr(request, "cookies", None) or {}).get(VISITOR)
    return kept or request.session_hash


def _number(data: gr.EventData) -> int:
    number = getattr(data, "number", None)
    if not isinstance(number, int):
        raise ValueError(f"expected the number of a card, got {number!r:.50}")
    return number


# ------------------------------------------------------------------------------------------------ HTML


def address(path: Path) -> str:
    """Find where the page finds a file of a session."""
    return escape(file_address(path), quote=True)


def file_address(path: Path) -> str:
    """Find where the page finds a file of a session: for JavaScript, not HTML."""
    return f"/gradio_api/file={quote(str(path))}"


def note(sentence: str) -> str:
    """Write a line that screen readers speak when it changes."""
    return f'<p class="ic-note" role="status" aria-live="polite">{escape(sentence)}</p>'


def legend() -> str:
    """List the brushes and their ids."""
    colors = zip(brush_names(), BRUSHES, strict=True)
    items = (
        f'<span><i style="background:{color}"></i>{name} = {number}</span>'
        for number, (color, (name, _)) in enumerate(colors, start=1)
    )
    return f'<div class="ic-legend" aria-label="Colours and their ids">{"".join(items)}</div>'


def example_cards(examples: Sequence[Example], names: Mapping[int, str] = MappingProxyType({})) -> str:
    """Show the examples in use, each with a button to remove it. names: what ids mean."""
    cards = (
        f'<figure><img src="{address(example.miniature)}" alt="Example {number + 1}: {escape(example.name)}">'
        f"<figcaption>{escape(example.name)}: {', '.join(escape(called(i, names)) for i in example.prompt.ids)}<br>"
        f'<button type="button" class="ic-button" data-remove="{number}" '
        f'aria-label="Remove example {number + 1}">Remove</button></figcaption></figure>'
        for number, example in enumerate(examples)
    )
    return f'<div class="ic-row">{"".join(cards)}</div>' if examples else note("No examples so far.")


def called(i: int, names: Mapping[int, str]) -> str:
    """Write an id with what it means, if that is known."""
    return f"{i} {names[i]}" if i in names else str(i)


def result_card(
    number: int, result: SegmentedImage, plain: Callable[[str], str], names: Mapping[int, str] = MappingProxyType({})
) -> str:
    """Show an image beside what was found in it. names: what ids mean."""
    name = escape(result.image.name)
    if result.miniatures is None:
        return (
            f'<figure class="ic-card" data-card="{number}"><figcaption class="ic-problem">'
            f"{escape(plain(result.problem or ''))}</figcaption></figure>"
        )
    image, mask, sure = map(address, result.miniatures)
    return (
        f'<figure class="ic-card" data-card="{number}"><div class="ic-pair">'
        f'<img src="{image}" alt="{name}" decoding="async">'
        f'<div class="ic-stack ic-hint" data-hint="{number}" tabindex="0" role="application" aria-label="{name}: click '
        f'to correct, or move with the arrow keys and press Enter"><img src="{image}" alt="" decoding="async">'
        f'<img class="ic-mask" src="{mask}" alt="What was found in {name}" decoding="async">'
        f'<img class="ic-sure" src="{sure}" alt="Confidence: white is sure" decoding="async">'
        f'<svg class="ic-said" aria-hidden="true"></svg></div></div>'
        f'<figcaption><strong>{name}</strong><span class="ic-found">'
        f"{found_in(number, result, names)}</span>"
        "</figcaption></figure>"
    )


def result_found(
    number: int,
    areas: Mapping[int, int],
    size: tuple[int, int],
    confidence: float | None,
    objects: Mapping[int, int] = MappingProxyType({}),
    names: Mapping[int, str] = MappingProxyType({}),
) -> str:
    """Say what was found in an image (H, W), by id in pixels, and what can be done with it.

    Args:
        confidence: 0..1, or None for a mask that was made by hand.
        objects: Connected parts, by id, as far as they were counted.
        names: What ids mean.
    """
    accept = f'<button type="button" class="ic-button" data-accept="{number}">Accept as example</button>'
    correct = f'<button type="button" class="ic-button" data-edit="{number}">Correct</button>'
    sure = "by hand" if confidence is None else f"sure: {confidence:.0%}"
    return f"{_areas(areas, size, objects, names)}<span>{sure}</span>{accept if areas else ''}{correct}"


def found_in(number: int, result: SegmentedImage, names: Mapping[int, str]) -> str:
    """Say what was found in an image; see `result_found`."""
    sure = None if result.by_hand else result.confidence
    return result_found(number, result.areas, result.size, sure, result.objects, names)


def result_cards(
    results: Sequence[SegmentedImage], plain: Callable[[str], str], names: Mapping[int, str] = MappingProxyType({})
) -> str:
    """Show all images beside what was found in them. names: what ids mean."""
    cards = "".join(result_card(number, result, plain, names) for number, result in enumerate(results))
    return f'<div class="ic-grid">{cards}</div>' if results else ""


def _areas(
    areas: Mapping[int, int], size: tuple[int, int], objects: Mapping[int, int], names: Mapping[int, str]
) -> str:
    if not areas:
        return "<span>nothing found</span>"
    whole = size[0] * size[1]
    colors = dict(enumerate(brush_names(), start=1))
    shares = (
        f'<span><i class="ic-swatch" style="background:{colors.get(i, "transparent")}"></i> '
        f"{escape(called(i, names))}: {pixels / whole:.1%} ({pixels} px)"
        f"{', ' + counted(objects[i], 'object') if i in objects else ''}</span>"
        for i, pixels in areas.items()
    )
    return "".join(shares)


def table(rows: Mapping[str, object]) -> str:
    """Write names and values."""
    cells = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
    return f'<table class="ic-table">{cells}</table>'


def forget(session: Session, number: int) -> None:
    """Take an example out."""
    if not 0 <= number < len(session.examples):
        raise ValueError(f"expected one of {len(session.examples)} examples, got number {number}")
    session.examples.pop(number)
