"""Greedy max-min diversity as the paper tells it, one double loop at a time, in float64: the reference of the tests."""

import math

import torch


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


def naive_weights_and_distances(features):
    """The weight of each token and the centred distances of all pairs, as the formulas of centred max-min tell them."""
    m = len(features)
    mean = [math.fsum(column) / m for column in zip(*features)]
    centred = [[x - y for x, y in zip(row, mean)] for row in features]
    distances = [[naive_distance(a, b) for b in centred] for a in centred]
    alike = [math.fsum(1 - naive_distance(a, b) for j, b in enumerate(features) if j != i) / (m - 1)
             for i, a in enumerate(features)]  # fmt: skip
    spread = max(alike) - min(alike)
    return [(max(alike) - one) / spread if spread >= 2**-20 else 1.0 for one in alike], distances


def exact_features(seed, m, d, dtype=torch.float32):
    """Rows of +-1. With D a power of 4 norms and products are exact in float32, so distances are too."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 2, (m, d), generator=generator) * 2 - 1).to(dtype)


def float64_distances(features):
    """`naive_distance` of all pairs of rows, (M, M), but for the last bits; a loop over them would take seconds."""
    rows = features.double()
    norms = torch.tensor([math.sqrt(math.fsum(x * x for x in row)) for row in rows.tolist()], dtype=torch.float64)
    is_zero = norms == 0
    inverse = torch.where(is_zero, 0.0, 1 / norms)
    distances = 1 - (rows * inverse[:, None]) @ (rows * inverse[:, None]).T
    return torch.where(is_zero[:, None] & is_zero[None], 0.0, distances)


def is_greedy(features, picks, tolerance):
    """Whether each pick is, within `tolerance`, as good as the best choice that the picks before it leave."""
    distances = float64_distances(features)
    nearest = (distances + torch.diag(torch.full((len(features),), math.inf))).amin(1)
    if nearest[picks[0]] < nearest.max() - tolerance:
        return False
    for step in range(1, len(picks)):
        smallest = distances[picks[:step]].amin(0)
        smallest[picks[:step]] = -math.inf
        if smallest[picks[step]] < smallest.max() - tolerance:
            return False
    return True
