"""ABX as its definition says it, one triple after the other: what the fast one is held against."""

import itertools
import math

import numpy as np


def distance(x, y, kind):
    if kind == "identical":
        return float(x != y)
    if kind == "euclidean":
        return float(np.sqrt(((x - y) ** 2).sum()))
    if not x.any() or not y.any():
        return float(x.any() != y.any())
    return math.acos(max(-1.0, min(1.0, float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))))) / math.pi


def dtw(x, y, kind):
    """Least cost over the length of its path, traced back: diagonal first, then along y."""
    n, m = len(x), len(y)
    cost = np.full((n, m), np.inf)
    for i, j in itertools.product(range(n), range(m)):
        before = [cost[p, q] for p, q in ((i - 1, j), (i - 1, j - 1), (i, j - 1)) if p >= 0 and q >= 0]
        cost[i, j] = distance(x[i], y[j], kind) + (min(before) if before else 0)
    i, j, length = n - 1, m - 1, 1
    while i and j:
        up, left, diagonal = cost[i - 1, j], cost[i, j - 1], cost[i - 1, j - 1]
        if diagonal <= left and diagonal <= up:
            i, j = i - 1, j - 1
        elif left <= up:
            j -= 1
        else:
            i -= 1
        length += 1
    return np.float32(cost[-1, -1]) / np.float32(length + i + j)


def abx(segments, *, kind="angular", speakers="within", remember=True):
    """Error of (frames, phone, context, speaker) of each item, without limits on their number.

    `remember`: each pair is warped once.
    """
    known = {}

    def d(p, q):
        if not remember:
            return dtw(segments[p][0], segments[q][0], kind)
        if (p, q) not in known:
            known[p, q] = dtw(segments[p][0], segments[q][0], kind)
        return known[p, q]

    groups = {}
    for k, (_, phone, context, speaker) in enumerate(segments):
        groups.setdefault((context, speaker, phone), []).append(k)
    pairs = {}
    for (context, speaker, a), (context_b, speaker_b, b) in itertools.permutations(groups, 2):
        if context_b != context or speaker_b != speaker or a == b:
            continue
        if speakers == "within":
            xs = [(speaker, groups[context, speaker, a])]
        else:
            xs = [(s, those) for (c, s, phone), those in groups.items() if c == context and phone == a and s != speaker]
        for _, those in xs:
            wrong = []
            for x, i, j in itertools.product(those, groups[context, speaker, a], groups[context, speaker, b]):
                if x == i:
                    continue
                # X and A of one set are compared once for both directions.
                to_a = d(min(x, i), max(x, i)) if speakers == "within" else d(x, i)
                to_b = d(x, j)
                wrong.append(1.0 if to_b < to_a else 0.5 if to_b == to_a else 0.0)
            if wrong:
                pairs.setdefault((a, b), {}).setdefault(speaker, []).append(np.mean(wrong))
    return float(np.mean([np.mean([np.mean(v) for v in by_speaker.values()]) for by_speaker in pairs.values()]))
