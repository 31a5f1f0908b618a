from itertools import combinations, product

from tests.support.pairwise import pairwise


def test_any_two_values_meet() -> None:
    parameters = ["abcd", [1, 2, 3], [None, True], "xyz"]
    chosen = pairwise(*parameters)
    for (i, some), (j, others) in combinations(enumerate(parameters), 2):
        met = {(case[i], case[j]) for case in chosen}
        assert met == {*product(some, others)}


def test_they_are_few() -> None:
    assert len(pairwise(range(14), range(3), range(3), range(3))) < 14 * 3 + 6


def test_they_are_the_same_in_every_worker() -> None:
    assert pairwise("abc", [1, 2], "xy") == pairwise("abc", [1, 2], "xy")
