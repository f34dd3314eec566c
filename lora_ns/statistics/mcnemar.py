"""Two systems that are right or wrong on the same items: the exact test, and the interval of their difference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lora_ns.statistics.interval import Interval, normal_quantile


def exact_mcnemar(wins: int, losses: int) -> float:
    """Return the two-sided p-value of the exact McNemar test: that of a fair coin, tossed for each discordant item.

    It is 1 without discordant items.
    """
    if wins + losses == 0:
        return 1.0
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def exact_sign_flips(differences: Sequence[int]) -> float:
    """Return the two-sided p-value of the sum of whole numbers whose signs are those of fair coins.

    With the wins minus losses of each cluster, it is the McNemar test for clustered items: the two systems are swapped
    in a whole cluster at once, as in Durkalski et al. (2003, Statistics in Medicine 22), but exactly. With clusters of
    one item it is `exact_mcnemar`. The distribution is that of the product of cosines, its characteristic function, so
    nothing is drawn.
    """
    observed, sizes = abs(sum(differences)), [abs(each) for each in differences if each]
    if observed == 0:
        return 1.0
    if max(sizes) == 1:
        return exact_mcnemar(sum(each > 0 for each in differences), sum(each < 0 for each in differences))
    import numpy as np

    reach = sum(sizes)
    angles = 2 * np.pi * np.arange(2 * reach + 1) / (2 * reach + 1)
    product: Any = np.ones(len(angles))
    for size, times in Counter(sizes).items():
        product *= np.cos(size * angles) ** times
    chances = np.fft.ifft(product).real  # of the sums 0 to `reach`; those below 0 have the same
    return float(min(1.0, max(0.0, 2 * chances[observed : reach + 1].sum())))


def tango(wins: int, losses: int, items: int, level: float = 0.95) -> Interval:
    """Return the score interval of the difference of two paired shares (Tango 1998, Statistics in Medicine 17).

    Fagerland, Lydersen and Laake (2014, Statistics in Medicine 33) recommend it: its coverage is close to the level
    with few items as well. It can exclude 0 where the exact test, which is cautious, finds nothing.

    Args:
        wins: number of items that only the second system has right.
        losses: number of items that only the first one has right.
        items: number of all items.
        level: confidence level.
    """
    if items == 0:
        return Interval(-1.0, 1.0, level, "none")
    z = normal_quantile(level)
    estimate = (wins - losses) / items

    def score(difference: float) -> float:
        """Standard errors between the estimate and a difference, which fall from 1 to -1."""
        linear = -wins - losses + (2 * items - wins + losses) * difference
        constant = -losses * difference * (1 - difference)
        lost = (math.sqrt(max(0.0, linear * linear - 8 * items * constant)) - linear) / (4 * items)
        variance = items * (2 * lost + difference * (1 - difference))
        distance = wins - losses - items * difference
        return (
            distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance) if distance else 0.0
        )

    def end(away: float, near: float, wanted: float) -> float:
        for _ in range(60):
            middle = (away + near) / 2
            away, near = (middle, near) if abs(score(middle)) > wanted else (away, middle)
        return (away + near) / 2

    return Interval(end(-1.0, estimate, z), end(1.0, estimate, z), level, "Tango")
