"""Ordered class lists: the forms they come in, the published ones, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfc.cache_schema.annotations.ordered import read_class_list
from vfc.cache_schema.values.errors import BadInput, MissingPath


def written(folder: Path, text: str) -> Path:
    path = folder / "classes.txt"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "pour\nkick ball\n\nwave\n",
        "1 kick ball\n0 pour\n2 wave\n",
        "1\tpour\n2\tkick ball\n3\twave",
        'id,name\n0,pour\n2,"wave"\n1,kick ball\n',
    ],
)
def test_every_form_gives_names_in_the_order_of_the_ids(tmp_path: Path, text: str) -> None:
    assert read_class_list(written(tmp_path, text)) == ("pour", "kick ball", "wave")


def test_names_that_begin_with_a_number_are_names_unless_all_lines_do(tmp_path: Path) -> None:
    assert read_class_list(written(tmp_path, "100 metres\nhurdles\n")) == ("100 metres", "hurdles")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "names no class"),
        ("wave\nkick\nwave\n", "names the class 'wave' twice"),
        ("id,name\n0,a\n2,b\n", "do not count up from 0 or 1 without a gap"),
        ("2 a\n3 b\n", "do not count up from 0 or 1 without a gap"),
        ("0,a\n1,b\n", "is a table whose first line is '0,a', not id,name"),
        ("name,id\nb,1\na,0\n", "is a table whose first line is 'name,id'"),
        ("id;name\n0;a\n1;b\n", "is a table whose first line is 'id;name'"),
        ("id,name\nx,a\n", "a line without an id and a name"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        read_class_list(written(tmp_path, text))


def test_a_missing_file_and_one_that_is_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match="There is no class list"):
        read_class_list(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"a\xff")
    with pytest.raises(BadInput, match=r"not UTF-8 text \(byte 1\)"):
        read_class_list(tmp_path / "b.txt")


def test_published_lists(shared_data: Path) -> None:
    folder = shared_data / "splits" / "labels"
    hmdb, ucf, kinetics = (read_class_list(folder / f"{n}_labels.csv") for n in ("hmdb51", "ucf", "kinetics_400"))
    assert (len(hmdb), len(ucf), len(kinetics)) == (51, 101, 400)
    assert hmdb[:2] == ("brush hair", "cartwheel")
