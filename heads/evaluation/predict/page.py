"""The page of predictions: a self-contained HTML file with a card per video, a search field and sorting."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Pictures = Callable[[str], Sequence[bytes]]

_STYLE: Final = """
:root{color-scheme:light dark;--bar:#9cc3ec;--line:#ccc;--dim:#666}
@media (prefers-color-scheme:dark){:root{--bar:#27527f;--line:#444;--dim:#aaa}}
body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem auto;max-width:75rem;padding:0 1rem}
h1{font-size:1.4rem;overflow-wrap:anywhere}
form{display:flex;flex-wrap:wrap;gap:.75rem;align-items:center;margin:1rem 0}
input,select{font:inherit;padding:.3rem .5rem;max-width:100%;box-sizing:border-box}
input{flex:1 1 12rem}
ol{list-style:none;margin:0;padding:0;display:grid;gap:.75rem;
grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr))}
li{border:1px solid var(--line);border-radius:.4rem;padding:.6rem .8rem;content-visibility:auto;
contain-intrinsic-size:auto 11rem}
h2{font-size:1rem;margin:0 0 .3rem;overflow-wrap:anywhere}
p{display:flex;justify-content:space-between;gap:.5rem;margin:.15rem 0;padding:0 .35rem;border-radius:.2rem;
background:linear-gradient(var(--bar),var(--bar)) no-repeat left/var(--share) 100%}
p span:first-child{overflow-wrap:anywhere}
p span:last-child{font-variant-numeric:tabular-nums;white-space:nowrap}
#count{color:var(--dim)}
[hidden]{display:none}
h3{font-size:.85rem;font-weight:400;margin:.5rem 0 .15rem;color:var(--dim)}
.frames{display:flex;gap:.25rem;margin:0 0 .4rem}
.frames img{flex:1 1 0;min-width:0;height:5rem;object-fit:cover;border-radius:.2rem}
.strip{display:flex;height:1.2rem;border-radius:.2rem;overflow:hidden;border:1px solid var(--line)}
.strip i{flex-basis:0!important;min-width:0}
.past{background:repeating-linear-gradient(45deg,var(--line) 0 .25rem,transparent .25rem .5rem)}
.key{display:flex;flex-wrap:wrap;gap:.1rem .7rem;font-size:.85rem;margin-top:.2rem}
.key span{overflow-wrap:anywhere}
.key b{display:inline-block;width:.7em;height:.7em;border-radius:.15em;margin-right:.3em}
"""

_SCRIPT: Final = """
const list = document.querySelector("ol"), items = [...list.children], form = document.querySelector("form");
const words = new Map(items.map(item => [item, item.textContent.toLowerCase()])), text = item => words.get(item);
const name = item => item.querySelector("h2").textContent;
const first = item => item.dataset.first, share = item => +(item.dataset.share || 0);
const orders = {
  given: () => 0, name: (a, b) => name(a).localeCompare(name(b)), sure: (a, b) => share(b) - share(a),
  unsure: (a, b) => share(a) - share(b), class: (a, b) => first(a).localeCompare(first(b)) || share(b) - share(a),
};
let shown = "given";
function show() {
  const wanted = form.search.value.toLowerCase().split(/\\s+/);
  for (const item of items) item.hidden = !wanted.every(word => text(item).includes(word));
  if (form.order.value !== shown) list.append(...[...items].sort(orders[shown = form.order.value]));
  document.querySelector("#count").textContent = items.filter(item => !item.hidden).length + " of " + items.length;
}
form.addEventListener("input", show);
form.addEventListener("submit", event => event.preventDefault());
show();
"""

_FORM: Final = """<form><input name="search" type="search" placeholder="Search videos and classes" aria-label="Search">
<label>Sort by <select name="order"><option value="given">given order</option><option value="name">name</option>
<option value="class">first class</option>%s</select></label><output id="count"></output></form>"""

_PROBABILITIES: Final = """<option value="sure">highest probability</option>
<option value="unsure">lowest probability</option>"""


@dataclass(frozen=True)
class Card:
    """One video on the page: its name, its first class and that one's probability (None: none), and its HTML."""

    name: str
    first: str
    share: float | None
    body: str


def page(title: str, cards: Iterable[Card], notes: Sequence[str], pictures: Pictures | None = None) -> str:
    """The HTML of videos with what was predicted for them.

    `pictures`: JPEG files of a video, by its name; asked for once per video, in order.
    """
    listed = [*cards]
    form = _FORM % (_PROBABILITIES if any(card.share is not None for card in listed) else "")
    lines = "".join(f"<div>{html.escape(note)}</div>\n" for note in notes)
    items = "\n".join(_item(card, pictures(card.name) if pictures else ()) for card in listed)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{lines}{form}\n<ol>\n{items}\n</ol>\n"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def bars(classes: Sequence[tuple[str, float]]) -> str:
    """Classes and their probabilities (0 to 1) as bars."""
    return "".join(
        f'<p style="--share:{100 * share:.2f}%"><span>{html.escape(label)}</span><span>{100 * share:.1f} %</span></p>'
        for label, share in classes
    )


def _item(card: Card, pictures: Sequence[bytes]) -> str:
    images = "".join(
        f'<img alt="" loading="lazy" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
        for data in pictures
    )
    strip = f'<div class="frames">{images}</div>' if images else ""
    share = "" if card.share is None else f' data-share="{card.share:.6f}"'
    first = html.escape(card.first, quote=True)
    return f'<li data-first="{first}"{share}><h2>{html.escape(card.name)}</h2>{strip}{card.body}</li>'
