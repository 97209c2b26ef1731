"""Sets with order and no times."""

from __future__ import annotations

import gzip

import pytest

from tasks.contracts.errors import BadRequestError
from tasks.events.sequences import read_amazon, read_ml_1m

FILMS = (
    "sas_item_id,movie_id,title,genres\n5,1,Toy Story (1995),Animation|Comedy\n,2,Jumanji,Fantasy\n"
)


def rows(events, *names):
    return [tuple(row[name] for name in names) for row in events.to_pyarrow().to_pylist()]


@pytest.fixture
def written(tmp_path):
    def write(name, text):
        path = tmp_path / name
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", ("ml-1m.txt", "ml-1m.txt.gz"))
def test_films_are_read_in_the_order_of_the_file(duck, written, name):
    raw = read_ml_1m(duck, [written(name, "1 5\n1 3\n2 5\n"), written("items.csv", FILMS)])
    assert rows(raw.events, "user_id", "item_id", "event_type", "arrival", "timestamp") == [
        ("1", "5", "view", 0, None),
        ("1", "3", "view", 1, None),
        ("2", "5", "view", 2, None),
    ]
    assert rows(raw.catalogue, "item_id", "title", "category") == [
        ("5", "Toy Story (1995)", "Animation|Comedy")
    ]
    assert raw.rows_read == 3


def test_reviews_are_one_user_a_line(duck, written):
    raw = read_amazon(duck, [written("Beauty.txt", "1 9 8 7\n2 9\n")])
    assert rows(raw.events, "user_id", "item_id", "event_type", "arrival") == [
        ("1", "9", "purchase", 0),
        ("1", "8", "purchase", 1),
        ("1", "7", "purchase", 2),
        ("2", "9", "purchase", 3),
    ]
    assert sorted(rows(raw.catalogue, "item_id")) == [("7",), ("8",), ("9",)]


def test_a_broken_line_is_named_by_its_number(duck, written):
    with pytest.raises(
        BadRequestError, match=r"ml-1m.txt, line 2: expected a user and 1 items, fo"
    ):
        read_ml_1m(duck, [written("ml-1m.txt", "1 5\n1 3 4\n"), written("items.csv", FILMS)])
    with pytest.raises(BadRequestError, match=r"Beauty.txt, line 1: .*, found '1'"):
        read_amazon(duck, [written("Beauty.txt", "1\n")])
