"""Student's t and the F distribution, for the keep rule and the analysis. Standard library only.

In: probabilities, ratios, degrees of freedom (need not be whole). Out: quantiles and tails, to
about 1e-10.
"""

import math
from functools import lru_cache


@lru_cache(maxsize=4096)
def t_quantile(p: float, df: float) -> float:
    """Return Student's t quantile by bisection of t_cdf; p in (0, 1), df > 0."""
    if not (0 < p < 1 and df > 0):
        raise ValueError(f"a t quantile needs 0 < p < 1 and df > 0, not {p} and {df}")
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p and high < 1e12:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, df: float) -> float:
    """Return Student's distribution function: 1 - I_x(df/2, 1/2)/2, x = df/(df + t^2), t >= 0."""
    tail = 0.5 * incomplete_beta(df / (df + t * t), df / 2, 0.5)
    return 1 - tail if t >= 0 else tail


def f_tail(ratio: float, df1: float, df2: float) -> float:
    """Return the upper tail of the F distribution: P(F(df1, df2) >= ratio)."""
    return incomplete_beta(df2 / (df2 + df1 * ratio), df2 / 2, df1 / 2)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b) by Lentz (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges quickly on the other side only
        return 1 - incomplete_beta(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log1p(-x))
    c, d, fraction = 2.0, 1.0, 2.0  # after the first term, which is 1
    for step in range(1, 1000):
        m = step // 2
        factor = -(a + m) * (a + b + m) if step % 2 else m * (b - m)
        term = factor * x / ((a + step - 1) * (a + step))
        d = 1 / (1 + term * d or 1e-300)
        c = 1 + term / c or 1e-300
        fraction *= c * d
        if abs(1 - c * d) < 1e-15:
            break
    return front * (fraction - 1) / a
