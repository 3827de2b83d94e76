"""The page of predictions: a self-contained HTML file with a bar per class, a search field and sorting."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

Ranked = Sequence[tuple[str, Sequence[tuple[str, float]]]]

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
p span:last-child{font-variant-numeric:tabular-nums}
#count{color:var(--dim)}
"""

_SCRIPT: Final = """
const list = document.querySelector("ol"), items = [...list.children], form = document.querySelector("form");
const text = item => item.textContent.toLowerCase(), name = item => item.querySelector("h2").textContent;
const first = item => item.querySelector("p span").textContent, share = item => +item.dataset.share;
const orders = {
  given: () => 0, name: (a, b) => name(a).localeCompare(name(b)), sure: (a, b) => share(b) - share(a),
  unsure: (a, b) => share(a) - share(b), class: (a, b) => first(a).localeCompare(first(b)) || share(b) - share(a),
};
function show() {
  const words = form.search.value.toLowerCase().split(/\\s+/);
  for (const item of items) item.hidden = !words.every(word => text(item).includes(word));
  list.append(...[...items].sort(orders[form.order.value]));
  document.querySelector("#count").textContent = items.filter(item => !item.hidden).length + " of " + items.length;
}
form.addEventListener("input", show);
form.addEventListener("submit", event => event.preventDefault());
show();
"""

_FORM: Final = """<form><input name="search" type="search" placeholder="Search videos and classes" aria-label="Search">
<label>Sort by <select name="order"><option value="given">given order</option><option value="name">name</option>
<option value="class">first class</option><option value="sure">highest probability</option>
<option value="unsure">lowest probability</option></select></label><output id="count"></output></form>"""


def page(title: str, ranked: Ranked, notes: Sequence[str]) -> str:
    """The HTML of videos with their likeliest classes and probabilities (0 to 1), the likeliest first."""
    lines = "".join(f"<div>{html.escape(note)}</div>\n" for note in notes)
    items = "\n".join(_item(name, classes) for name, classes in ranked)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{lines}{_FORM}\n<ol>\n{items}\n</ol>\n"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _item(name: str, classes: Sequence[tuple[str, float]]) -> str:
    bars = "".join(
        f'<p style="--share:{100 * share:.2f}%"><span>{html.escape(label)}</span><span>{100 * share:.1f} %</span></p>'
        for label, share in classes
    )
    return f'<li data-share="{classes[0][1]:.6f}"><h2>{html.escape(name)}</h2>{bars}</li>'
