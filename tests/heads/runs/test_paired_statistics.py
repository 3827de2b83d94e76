"""Runs beside each other: groups, deviation over seeds, paired differences against a slow bootstrap."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from suites.motion_store import Told

from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.cache_schema.values.progress import Silent
from vfc.heads.evaluation.compare_runs import ReportConfig, report
from vfc.heads.runs.intervals import bootstrap, student
from vfc.heads.runs.paired_statistics import Run, beyond


def write_run(
    folder: Path,
    head: str,
    correct: Mapping[str, float],
    seed: int = 0,
    tested: str = "list",
    recipe: str = "f" * 64,
    **task: Any,
) -> Path:
    folder.mkdir(parents=True)
    config = {"task": {"shots": 0, "fold": "", "shuffle": False, **task}, "head": {}, "train": {"seed": seed}}
    settings = {"head": head, "config": config, "data": {"recipe_digest": recipe}}
    (folder / "config.json").write_text(json.dumps(settings))
    rows = [json.dumps({"item": item, "correct": value}, ensure_ascii=False) for item, value in correct.items()]
    (folder / "predictions.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "results.jsonl").write_text(json.dumps({"list_digest": tested}) + "\n")
    return folder


def shares(text: str) -> dict[str, float]:
    return {f"clip{i:03}": float(letter) for i, letter in enumerate(text)}


def test_the_bootstrap_is_that_of_a_slow_loop() -> None:
    values = np.random.default_rng(1).normal(0.1, 1, size=40)
    low, high = bootstrap(values, 4000)
    generator = np.random.default_rng(2)
    means = sorted(np.mean([values[generator.integers(40)] for _ in range(40)]) for _ in range(1500))
    assert low == pytest.approx(means[37], abs=0.03)
    assert high == pytest.approx(means[1462], abs=0.03)
    assert bootstrap(values, 4000) == (low, high)
    assert bootstrap(np.ones(5)) == (1, 1)


@pytest.mark.parametrize(("freedom", "printed"), [(2, 4.303), (5, 2.571), (9, 2.262), (30, 2.042)])
def test_students_t_as_printed_in_tables(freedom: int, printed: float) -> None:
    assert student(freedom) == pytest.approx(printed, rel=0.03 if freedom < 5 else 0.003)


def test_beyond_is_paired_and_asks_every_seed(tmp_path: Path) -> None:
    # Seeds agree: 12 of 30 clips better, none worse.
    here = [write_run(tmp_path / f"a{s}", "a", shares("1" * 27 + "000"), s) for s in (0, 1)]
    there = [write_run(tmp_path / f"b{s}", "b", shares("1" * 15 + "0" * 15), s) for s in (0, 1)]
    result = beyond(here, there)
    assert [result.mean, result.items, *result.per_seed] == pytest.approx([0.4, 30, 0.4, 0.4])
    assert result.low == pytest.approx(0.4 - 1.96 * np.sqrt(0.4 * 0.6 / 30), abs=0.05)
    assert result.beyond
    back = beyond(there, here)
    assert back.mean == pytest.approx(-0.4)
    assert not back.beyond
    # One seed says otherwise: the mean is beyond, the runs are not.
    mixed = [write_run(tmp_path / f"m{s}", "b", shares(t), s) for s, t in enumerate(("0" * 30, "1" * 28 + "00"))]
    result = beyond(here, mixed)
    assert result.low > 0
    assert result.per_seed[1] < 0
    assert not result.beyond


def test_a_method_that_draws_nothing_stands_beside_every_seed(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"a{s}", "a", shares(t), s) for s, t in enumerate(("1111", "1110", "1100"))]
    fixed = write_run(tmp_path / "zero", "text-zero-shot", shares("1000"), 7)
    assert beyond(runs, [fixed]).per_seed == (0.75, 0.5, 0.25)
    assert beyond([fixed], runs).per_seed == (-0.75, -0.5, -0.25)


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    a = [write_run(tmp_path / f"a{s}", "a", shares("1111"), s) for s in (0, 1)]
    b = [write_run(tmp_path / f"b{s}", "b", shares("1111"), s) for s in (0, 2)]
    with pytest.raises(BadInput, match=r"different seeds: 0, 1 and 0, 2.\nTrain both with the same --seed"):
        beyond(a, b)
    other = write_run(tmp_path / "c", "c", shares("11111"))
    with pytest.raises(BadInput, match=r"same items: 4 and 5 items, 4 in common.\nUse the same store"):
        beyond(a[:1], [other])
    elsewhere = write_run(tmp_path / "d", "d", shares("1111"), tested="another list")
    with pytest.raises(BadInput, match="0 in common"):
        beyond(a[:1], [elsewhere])
    with pytest.raises(MissingPath, match="no finished run"):
        beyond(a, [tmp_path])


def test_runs_are_grouped_over_seeds_and_folds(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for fold, texts in {"1": ("1100", "1110"), "2": ("11", "10"), "3": ("10", "00")}.items():
        for seed, text in enumerate(texts):
            write_run(runs / f"a-{fold}-{seed}", "a", shares(text), seed, tested=fold, fold=fold)
            write_run(runs / f"b-{fold}-{seed}", "b", shares("0" * len(text)), seed, tested=fold, fold=fold)
    result = report(ReportConfig((runs,), against=(runs / "b-1-0",)), Silent())
    told: Mapping[str, Any] = result.to_json()
    ids = {group["name"]: key for key, group in told["groups"].items()}
    assert set(ids) == {"a", "b"}
    a = told["groups"][ids["a"]]
    assert (a["seeds"], a["lists"]) == (2, 3)
    by_seed = [np.mean([0.5, 1.0, 0.5]), np.mean([0.75, 0.5, 0.0])]
    assert a["mean"] == pytest.approx(np.mean(by_seed))
    assert a["std"] == pytest.approx(np.std(by_seed, ddof=1))
    lists = [0.625, 0.75, 0.25]
    assert a["interval_over_lists"] == pytest.approx(4.303 * np.std(lists, ddof=1) / np.sqrt(3), rel=0.03)
    (apart,) = told["differences"]
    assert (apart["runs"], apart["against"], apart["items"]) == (ids["a"], ids["b"], 8)
    assert apart["per_seed"] == [pytest.approx(5 / 8), pytest.approx(4 / 8)]
    tables = result.tables()
    score = f"{100 * a['mean']:.2f} ± {100 * a['std']:.2f} %"
    assert tables[0].rows[0][:5] == ("a", "none", score, "2 seeds", "3")
    assert tables[1].rows[0][0] == "a - b"
    assert tables[1].rows[0][5] == "yes"


def test_groups_are_named_by_what_sets_them_apart(tmp_path: Path) -> None:
    for shots in (2, 4):
        for head in ("a", "b"):
            write_run(tmp_path / f"{head}{shots}", head, shares("11"), shots=shots)
    write_run(tmp_path / "mixed", "a", shares("10"), shots=2, shuffle=True)
    result = report(ReportConfig((tmp_path,), against=(tmp_path / "a2", tmp_path / "a4")), Silent())
    names = {"a (shots 2, shuffle False)", "a (shots 4, shuffle False)", "b (shots 2, shuffle False)"}
    assert set(result.groups) == names | {"b (shots 4, shuffle False)", "a (shots 2, shuffle True)"}
    # Only what was trained on as much is compared.
    assert len(result.differences) == 3
    assert all(a.partition("shots")[2][:2] == b.partition("shots")[2][:2] for a, b in result.differences)
    told = Told()
    alone = (tmp_path / "a4", tmp_path / "a2")
    assert not report(ReportConfig(alone, against=alone[:1]), told).differences
    (line,) = told.lines
    assert line.startswith("Nothing is compared with a (shots 4): no other group has the same shots, protocol, way,")


def test_runs_on_features_made_in_another_way_are_another_group(tmp_path: Path) -> None:
    # The seeds differ too: without the recipe they would pass for two seeds of one thing.
    write_run(tmp_path / "clip", "a", shares("11"), 0, recipe="1" * 64)
    write_run(tmp_path / "videomae", "a", shares("10"), 1, recipe="2" * 64)
    result = report(ReportConfig((tmp_path,)), Silent())
    assert {name: group.seeds for name, group in result.groups.items()} == {
        "a (recipe 111111111111)": (0,),
        "a (recipe 222222222222)": (1,),
    }


def test_an_item_is_read_back_by_its_whole_name(tmp_path: Path) -> None:
    assert dict(Run.read(write_run(tmp_path / "run", "a", {"clip\u2028one": 1.0})).items) == {"clip\u2028one": 1.0}


def test_what_does_not_fit_is_left_out_with_the_reason_and_none_at_all_is_refused(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("one", "two"):
        write_run(runs / name, "a", shares("11"))
    write_run(runs / "unfinished", "a", shares("11"), 5)
    (runs / "unfinished" / "results.jsonl").unlink()
    write_run(runs / "torn", "a", shares("11"), 6)
    (runs / "torn" / "config.json").write_text("{")
    for seed in (0, 1):
        write_run(runs / f"b{seed}", "b", shares("10"), seed)
    result = report(ReportConfig((runs,), against=(runs / "b0",)), Silent())
    assert sorted(group.seeds for group in result.groups.values()) == [(0,), (0, 1)]
    reasons = {Path(one.name).name: one.reason for one in result.left_out}
    assert set(reasons) == {"two", "unfinished", "torn"}
    assert "the same training as" in reasons["two"]
    assert "no finished run" in reasons["unfinished"]
    assert "cannot be read" in reasons["torn"]
    assert [table.title for table in result.tables()][:3][-1] == "Left out"
    # Seeds that cannot be paired leave the difference out, not the report.
    for seed in (0, 2):
        write_run(tmp_path / "more" / f"c{seed}", "c", shares("10"), seed)
    odd = report(ReportConfig((tmp_path / "more", runs / "b0", runs / "b1"), against=(runs / "b0",)), Silent())
    assert not odd.differences
    assert [one.name for one in odd.left_out] == ["c - b"]
    with pytest.raises(BadInput, match=r"No run was given.\nGive the folders"):
        report(ReportConfig(), Silent())
    with pytest.raises(MissingPath, match="no finished run"):
        report(ReportConfig((tmp_path / "nothing",)), Silent())


def test_few_shot_runs_are_beyond_over_test_classes_not_over_tasks(tmp_path: Path) -> None:
    # 400 tasks of 4 classes with 100 queries each; one class alone makes the whole difference of 10 points.
    def few_shot(name: str, hits: tuple[int, ...], seed: int) -> Path:
        right = sum(hits)
        folder = write_run(tmp_path / name, name[0], {str(i): float(i < right) for i in range(400)}, seed)
        row = {"list_digest": "list", "task": "fewshot", "per_class": dict.fromkeys("pqrs")}
        confusion = [[0] * i + [n] + [0] * (3 - i) for i, n in enumerate(hits)]
        for i, n in enumerate(hits):
            confusion[i][i - 1] = 100 - n
        (folder / "results.jsonl").write_text(json.dumps({**row, "confusion": confusion}) + "\n")
        return folder

    here = [few_shot(f"a{s}", (90, 50, 50, 50), s) for s in (0, 1)]
    there = [few_shot(f"b{s}", (50, 50, 50, 50), s) for s in (0, 1)]
    apart = beyond(here, there)
    assert (apart.over, apart.units, apart.items) == ("test classes", 4, 400)
    assert apart.mean == pytest.approx(0.1)
    # Student's t with 3 degrees of freedom on 0.4, 0, 0, 0: 0.1 -+ 3.1824 * 0.2 / 2.
    assert (apart.low, apart.high) == pytest.approx((0.1 - 0.31824, 0.1 + 0.31824), abs=1e-5)
    assert apart.over_items[0] > 0
    assert not apart.beyond
    every = beyond([few_shot(f"c{s}", (60, 59, 61, 60), s) for s in (0, 1)], there)
    assert every.beyond


def test_one_seed_is_not_every_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "two" / f"a{seed}", "a", shares("1" * 20), seed)
        write_run(tmp_path / "two" / f"b{seed}", "b", shares("0" * 19 + "1"), seed)
    assert beyond([tmp_path / "two/a0", tmp_path / "two/a1"], [tmp_path / "two/b0"]).beyond
    alone = report(ReportConfig((tmp_path / "two/a0",), against=(tmp_path / "two/b0",)), Silent())
    (apart,) = alone.differences.values()
    assert apart.low > 0
    assert not apart.beyond
    assert alone.tables()[1].rows[0][-1] == "1 seed"


def test_segments_of_a_file_and_windows_of_a_video_are_one_unit(tmp_path: Path) -> None:
    segments = {f"v{i // 5}.mp4#t={i % 5}-{i % 5 + 1}": float(i < 15) for i in range(30)}
    windows = {f"v{i // 2} after {0.2 + 0.1 * (i % 2):g}": float(i < 15) for i in range(30)}
    for task, items, name, count in (
        ("classification", segments, "files", 6),
        ("classification", {f"v{i}.mp4": 1.0 for i in range(30)}, "videos", 30),
        ("anticipation", windows, "videos", 15),
    ):
        folder = write_run(tmp_path / f"{task}{name}{count}", "a", items)
        (folder / "results.jsonl").write_text(json.dumps({"list_digest": "x", "task": task}) + "\n")
        units = Run.read(folder).units
        assert (units.name, len(units.sums)) == (name, count)
