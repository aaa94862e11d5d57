"""Messages about dead and hung ranks; tests/distributed/test_dead_ranks.py has real ones."""

from vaetrain.engines.heartbeat import rank_list


def test_ranks_are_listed_in_words():
    assert rank_list([1], "is", "are") == "rank 1 is"
    assert rank_list([0, 2], "is", "are") == "ranks 0 and 2 are"
    assert rank_list([0, 2, 5], "has", "have") == "ranks 0, 2 and 5 have"
