"""Greedy max-min diversity as the paper tells it, one double loop at a time, in float64: the reference of the tests."""

import math


def naive_distance(a, b):
    """`1 - cos(a, b)` of two lists of numbers. Zero vectors: 0 of each other, 1 of all others."""
    norm_a, norm_b = math.sqrt(math.fsum(x * x for x in a)), math.sqrt(math.fsum(x * x for x in b))
    if norm_a == 0 or norm_b == 0:
        return 0.0 if norm_a == norm_b else 1.0
    return 1.0 - math.fsum(x * y for x, y in zip(a, b)) / (norm_a * norm_b)


def naive_max_min(features, num_tokens):
    """Indices of `num_tokens` rows of `features` (a list of lists of finite numbers), in the order of picking."""
    m = len(features)
    distances = [[naive_distance(features[i], features[j]) for j in range(m)] for i in range(m)]
    best, first = -math.inf, 0
    for i in range(m):
        nearest_other = min((distances[i][j] for j in range(m) if j != i), default=math.inf)
        if nearest_other > best:
            best, first = nearest_other, i
    picked = [first]
    while len(picked) < num_tokens:
        best, pick = -math.inf, None
        for i in range(m):
            if i in picked:
                continue
            smallest = min(distances[i][j] for j in picked)
            if smallest > best:
                best, pick = smallest, i
        picked.append(pick)
    return picked
