"""Selection and sorting in the very order of libstdc++, on which PyTorch's indices of equal
elements depend.

Each function works on a list of whole numbers (the ranks of the elements, smaller first) and
returns places in it. They are Python loops, so they serve only rows in which equal elements decide.
The algorithms: D. Musser, "Introspective Sorting and Selection Algorithms", 1997; the pivot of
`quickselect`: Numerical Recipes, 8.5.
"""

from __future__ import annotations

Ranks = list[int]
_SMALL = 16  # runs this short are sorted by insertion


def nth_element(ranks: Ranks, nth: int) -> list[int]:
    """`std::nth_element`: places in which the one at `nth` is where sorting would put it."""
    places = list(range(len(ranks)))
    _introselect(ranks, places, 0, nth, len(places))
    return places


def top(ranks: Ranks, k: int, ordered: bool) -> list[int]:
    """The places of the `k` smallest as PyTorch's `topk` finds them."""
    n = len(ranks)
    places = list(range(n))
    if k * 64 <= n:
        _partial_sort(ranks, places, 0, k, n)
    elif k:
        _introselect(ranks, places, 0, k - 1, n)
        if ordered:
            _sort(ranks, places, 0, k - 1)
    return places[:k]


def sort(ranks: Ranks) -> list[int]:
    """`std::sort`, which does not keep the order of equal elements."""
    places = list(range(len(ranks)))
    _sort(ranks, places, 0, len(places))
    return places


def quickselect(ranks: Ranks, k: int) -> int:
    """The place of the `k`-th smallest as PyTorch's `kthvalue` finds it."""
    places = list(range(len(ranks)))
    left, right = 0, len(places) - 1

    def swap(i: int, j: int) -> None:
        places[i], places[j] = places[j], places[i]

    def greater(i: int, j: int) -> bool:
        return ranks[places[i]] > ranks[places[j]]

    while right > left + 1:
        swap(left + (right - left) // 2, left + 1)
        for i, j in ((left + 1, right), (left, right), (left + 1, left)):
            if greater(i, j):
                swap(i, j)
        i, j, pivot = left + 1, right, ranks[places[left]]
        while True:
            i += 1
            while pivot > ranks[places[i]]:
                i += 1
            j -= 1
            while ranks[places[j]] > pivot:
                j -= 1
            if j < i:
                break
            swap(i, j)
        swap(left, j)
        if j <= k:
            left = i
        if j >= k:
            right = j - 1
    if right == left + 1 and greater(left, right):
        swap(left, right)
    return places[k]


def _introselect(ranks: Ranks, places: list[int], first: int, nth: int, last: int) -> None:
    depth = 2 * ((last - first).bit_length() - 1)
    while last - first > 3:
        if not depth:
            _heap_select(ranks, places, first, nth + 1, last)
            places[first], places[nth] = places[nth], places[first]
            return
        depth -= 1
        cut = _partition(ranks, places, first, last)
        if cut <= nth:
            first = cut
        else:
            last = cut
    _insertion_sort(ranks, places, first, last)


def _sort(ranks: Ranks, places: list[int], first: int, last: int) -> None:
    if last > first:
        _introsort(ranks, places, first, last, 2 * ((last - first).bit_length() - 1))
        _insertion_sort(ranks, places, first, last)


def _introsort(ranks: Ranks, places: list[int], first: int, last: int, depth: int) -> None:
    while last - first > _SMALL:
        if not depth:
            _partial_sort(ranks, places, first, last, last)
            return
        depth -= 1
        cut = _partition(ranks, places, first, last)
        _introsort(ranks, places, cut, last, depth)
        last = cut


def _partition(ranks: Ranks, places: list[int], first: int, last: int) -> int:
    """Move the median of three to `first` and part the others around it."""
    a, b, c = first + 1, first + (last - first) // 2, last - 1
    x, y, z = ranks[places[a]], ranks[places[b]], ranks[places[c]]
    if x < y:
        middle = b if y < z else (c if x < z else a)
    else:
        middle = a if x < z else (c if y < z else b)
    places[first], places[middle] = places[middle], places[first]
    pivot = ranks[places[first]]
    i, j = first + 1, last
    while True:
        while ranks[places[i]] < pivot:
            i += 1
        j -= 1
        while pivot < ranks[places[j]]:
            j -= 1
        if i >= j:
            return i
        places[i], places[j] = places[j], places[i]
        i += 1


def _insertion_sort(ranks: Ranks, places: list[int], first: int, last: int) -> None:
    for i in range(first + 1, last):
        place = places[i]
        rank = ranks[place]
        j = i
        while j > first and rank < ranks[places[j - 1]]:
            places[j] = places[j - 1]
            j -= 1
        places[j] = place


def _partial_sort(ranks: Ranks, places: list[int], first: int, middle: int, last: int) -> None:
    _heap_select(ranks, places, first, middle, last)
    while middle - first > 1:
        middle -= 1
        _pop_heap(ranks, places, first, middle, middle)


def _heap_select(ranks: Ranks, places: list[int], first: int, middle: int, last: int) -> None:
    length = middle - first
    for parent in range((length - 2) // 2, -1, -1):
        _adjust_heap(ranks, places, first, parent, length, places[first + parent])
    for i in range(middle, last):
        if length and ranks[places[i]] < ranks[places[first]]:
            _pop_heap(ranks, places, first, middle, i)


def _pop_heap(ranks: Ranks, places: list[int], first: int, last: int, result: int) -> None:
    place, places[result] = places[result], places[first]
    _adjust_heap(ranks, places, first, 0, last - first, place)


def _adjust_heap(
    ranks: Ranks, places: list[int], first: int, hole: int, length: int, place: int
) -> None:
    top, child = hole, hole
    while child < (length - 1) // 2:
        child = 2 * (child + 1)
        if ranks[places[first + child]] < ranks[places[first + child - 1]]:
            child -= 1
        places[first + hole] = places[first + child]
        hole = child
    if length % 2 == 0 and child == (length - 2) // 2:
        child = 2 * (child + 1)
        places[first + hole] = places[first + child - 1]
        hole = child - 1
    parent = (hole - 1) // 2
    while hole > top and ranks[places[first + parent]] < ranks[place]:
        places[first + hole] = places[first + parent]
        hole = parent
        parent = (hole - 1) // 2
    places[first + hole] = place
