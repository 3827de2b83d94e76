"""Draw docs/ut-interaction.svg from the table of tests/benchmarks/vidprism_controls.md: `python docs/picture.py`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "benchmarks" / "vidprism_controls.md"
PICTURE = ROOT / "docs" / "ut-interaction.svg"
COLOURS = ("#9aa5b1", "#616e7c", "#f0b429", "#e78c54", "#2b6cb0")
LEFT, TOP, WIDTH, HEIGHT, BAR = 44, 76, 640, 220, 32


def table() -> dict[str, list[tuple[float, float]]]:
    """Row name to (accuracy, half of the 95 % interval) for K = 2, 4 and 8, of the section `ut`."""
    section = TABLE.read_text("utf-8").split("\n## ut\n", 1)[1].split("\n\n|", 2)[1]
    rows: dict[str, list[tuple[float, float]]] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        pairs = [re.fullmatch(r"([\d.]+) ± ([\d.]+)", cell) for cell in cells[1:]]
        if pairs and all(pairs):
            rows[cells[0]] = [(float(pair[1]), float(pair[2])) for pair in pairs if pair]
    return rows


def svg(rows: dict[str, list[tuple[float, float]]]) -> str:
    """Grouped bars with their intervals."""

    def y(percent: float) -> float:
        return TOP + HEIGHT * (1 - percent / 80)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 56} {TOP + HEIGHT + 48}" '
        'font-family="sans-serif" font-size="12" fill="#243b53">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" font-size="14" font-weight="bold">UT-Interaction set 1: '
        "accuracy in % by labelled videos per class</text>",
    ]
    for percent in (0, 20, 40, 60, 80):
        parts.append(
            f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y(percent):.1f}" y2="{y(percent):.1f}" stroke="#e4e7eb"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{y(percent) + 4:.1f}" text-anchor="end">{percent}</text>')
    parts.append(
        f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y(100 / 6):.1f}" y2="{y(100 / 6):.1f}" stroke="#9b1c1c" '
        'stroke-dasharray="4 4"/>'
    )
    parts.append(f'<text x="{LEFT + WIDTH + 6}" y="{y(100 / 6) + 4:.1f}" fill="#9b1c1c">chance</text>')
    for row, (name, values) in enumerate(rows.items()):
        x = LEFT + (row % 3) * 216
        parts.append(f'<rect x="{x}" y="{32 + 20 * (row // 3)}" width="12" height="12" fill="{COLOURS[row]}"/>')
        parts.append(f'<text x="{x + 18}" y="{42 + 20 * (row // 3)}">{name}</text>')
        for group, (accuracy, half) in enumerate(values):
            left = LEFT + 24 + group * WIDTH / 3 + row * (BAR + 2)
            middle = left + BAR / 2
            parts.append(
                f'<rect x="{left:.1f}" y="{y(accuracy):.1f}" width="{BAR}" height="{y(0) - y(accuracy):.1f}" '
                f'fill="{COLOURS[row]}"/>'
                f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y(accuracy - half):.1f}" '
                f'y2="{y(accuracy + half):.1f}" stroke="#102a43" stroke-width="1.5"/>'
            )
    for group, shots in enumerate((2, 4, 8)):
        middle = LEFT + 24 + group * WIDTH / 3 + len(rows) * (BAR + 2) / 2
        parts.append(f'<text x="{middle:.1f}" y="{y(0) + 20:.1f}" text-anchor="middle">K = {shots}</text>')
    parts.append(
        f'<text x="{LEFT}" y="{TOP + HEIGHT + 42}" font-size="11">Ten folds, three seeds; the lines are 95 % intervals '
        "over the folds. Frozen ImageNet features of 60 clips.</text>"
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(svg(table()), "utf-8")
