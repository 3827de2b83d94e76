"""The facts of a result as text: views, templates, tokens, split and digests are named beside its numbers."""

from __future__ import annotations

from vfc.heads.results.facts import fact_rows, facts_table

RESULT = {
    "views": {"train": [0, 10001, 10002], "test": [404, 401, 402, 403]},
    "templates": ["a-video-of-label-38597dd8"],
    "tokens": {"visual": "mean of all 4 tokens of a frame"},
    "baseline_tokens": {"visual": "mean of all tokens, 8 steps by segment-mean"},
    "centring": "none",
    "split_rule": "Videos of every class split 60/20/20 at random",
    "groups_kept": 3,
    "clips_per_class": {"jump": 2, "run": 9},
    "identical_in_train_and_test": [["a", "b"]],
    "videos_digest": "0123456789abcdef",
    "list_digest": {"test": "not a single digest"},
    "accuracy": 0.5,
}


def test_every_fact_of_a_result_is_a_line() -> None:
    assert fact_rows(RESULT) == {
        "views": "train 0, 10001-10002; test 401-404",
        "templates of class texts": "a-video-of-label-38597dd8",
        "tokens": "visual mean of all 4 tokens of a frame",
        "tokens of the baselines": "visual mean of all tokens, 8 steps by segment-mean",
        "centring": "none",
        "split rule": "Videos of every class split 60/20/20 at random",
        "groups kept together": "3",
        "clips per class": "2 to 9 in 2 classes",
        "identical files in train and test": "1",
        "videos digest": "0123456789ab",
    }


def test_results_stand_beside_each_other_and_what_one_lacks_is_empty() -> None:
    (table,) = facts_table({"a": {"centring": "none"}, "b": {"centring": "train", "clips_per_class": {"run": 2}}})
    assert table.columns == ("", "a", "b")
    assert table.rows == (("centring", "none", "train"), ("clips per class", "", "2 in each of 1 classes"))
    assert facts_table({"old run": {"accuracy": 0.5}}) == []
