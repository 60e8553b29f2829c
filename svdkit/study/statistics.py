"""What a study's table allows to conclude: intervals, paired tests, and ranks with a critical difference.

A *method* is a scheduler with a schedule. A *block* is an image, a seed and a guidance, of which every method that is
compared has made a video; a method with a failed cell loses the block for all. Blocks are taken as independent, which
seeds of one image are only in part: figures speak of these images, the more of them the better.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from ..errors import InputError
from .table import MEASURES

if TYPE_CHECKING:
    import pandas as pd

Method = tuple[str, str]
"""Scheduler and schedule."""

_METHOD, _BLOCK = ["scheduler", "schedule"], ["image", "seed", "guidance"]


def method_name(method: Method) -> str:
    """As texts call it: `"euler, karras"`."""
    return ", ".join(method)


@frozen(eq=False)
class Comparison:
    """Methods at one budget, by one measure."""

    measure: str
    budget: int
    blocks: int
    seeds: int
    """How many different ones are among the blocks."""
    ranks: dict[Method, float]
    """Mean ranks over the blocks, the best first; 1 is best in every block."""
    friedman: float
    """p-value of Friedman's test that all methods are alike; NaN of fewer than three methods or two blocks."""
    critical_difference: float
    """Of mean ranks, by Nemenyi's test (Demšar 2006, doi:10.5555/1248547.1248548, section 3.2.2); NaN likewise."""
    pairs: pd.DataFrame
    """For every two methods `a` and `b`: the mean `difference` a - b, `p` of Wilcoxon's signed-rank test, `p_holm`
    corrected for all pairs, and whether they are `separated`."""
    best: Method | None
    """By mean rank; None if nothing can be compared."""
    tied: list[Method]
    """Those that are not separated from the best: Wilcoxon's test of each against it, corrected by Holm's method for
    their number. The best was chosen by the same data, so nothing is separated unless Friedman's test, too, rejects."""

    @property
    def methods(self) -> list[Method]:
        """All of them, the best first."""
        return list(self.ranks)

    @property
    def conclusion(self) -> str:
        """One sentence."""
        where = f"at {self.budget} evaluations, over {self.blocks} blocks"
        if self.best is None or len(self.ranks) < 2:
            return f"Nothing can be compared {where}: no two methods have made the same videos."
        if self.seeds < 2 or self.blocks < 2:
            return f"Not separated {where}: one seed is no ground for a conclusion."
        name, others = method_name(self.best), len(self.ranks) - 1
        beaten = others - len(self.tied)
        if not beaten:
            return f"Not separated {where}: {name} has the best mean rank, but no test tells it from any other method."
        if not self.tied:
            return f"{name} is best {where}, and separated from all {others} others."
        return (
            f"{name} is best {where}, separated from {beaten} of {others} others; not separated from {len(self.tied)}."
        )


def budgets(table: pd.DataFrame) -> list[int]:
    """The budgets at which there is something to compare."""
    counts = _usable(table)[["budget", *_METHOD]].drop_duplicates().groupby("budget").size()
    return sorted(int(budget) for budget, count in counts.items() if count > 1)


def means(
    table: pd.DataFrame, measure: str = "latent_error", confidence: float = 0.95, resamples: int = 2000
) -> pd.DataFrame:
    """Means over blocks, with bootstrap intervals.

    Args:
        table: of a study, or some of its rows.
        measure: a column of `svdkit.study.table.MEASURES`.
        confidence: of the intervals.
        resamples: of the bootstrap, which is the bias-corrected and accelerated one (BCa).

    Returns:
        one row for each scheduler, schedule and budget, in the order of the table: `evaluations`, `seconds` (of
        denoising) and `blocks`, and `mean`, `low` and `high` of the measure; no interval, NaN, of a single block.
    """
    _check(measure)
    rows: list[dict[str, Any]] = []
    done = table[(table["status"] == "done") & np.isfinite(table[measure])]
    for (scheduler, schedule, budget), part in done.groupby([*_METHOD, "budget"], sort=False):
        values = part[measure].to_numpy()
        low, high = _interval(values, confidence, resamples)
        rows.append(
            {"scheduler": scheduler, "schedule": schedule, "budget": budget}
            | {"evaluations": part["evaluations"].mean(), "seconds": part["seconds_denoise"].mean()}
            | {"blocks": len(part), "mean": values.mean(), "low": low, "high": high}
        )
    return _frame(rows)


def compare(table: pd.DataFrame, budget: int, measure: str = "latent_error", confidence: float = 0.95) -> Comparison:
    """The methods that stayed within a budget, against each other.

    Args:
        table: of a study, or some of its rows.
        budget: function evaluations, as they were asked for; cells that used more are left out.
        measure: a column of `svdkit.study.table.MEASURES` of which lower or higher is better.
        confidence: 1 minus the level of all tests.

    Raises:
        InputError: there is no such measure, or none of its values is better than another.
    """
    from scipy import stats

    if not _check(measure).better:
        raise InputError(f"No value of {measure} is better than another; compare by another measure.")
    usable = _usable(table)
    usable = usable[(usable["budget"] == budget) & usable[measure].notna()]
    wide = usable.pivot_table(index=_BLOCK, columns=_METHOD, values=measure, sort=False).dropna()
    sign = 1 if MEASURES[measure].better == "lower" else -1
    mean_ranks = (sign * wide).rank(axis=1).mean().sort_values(kind="stable")
    ranks = {(str(a), str(b)): float(rank) for (a, b), rank in mean_ranks.items()} if len(wide) else {}
    n, k, level = len(wide), len(ranks), 1 - confidence
    friedman = critical = math.nan
    if n > 1 and k > 2:
        friedman = float(stats.friedmanchisquare(*wide.to_numpy().T).pvalue)
        critical = float(stats.studentized_range.ppf(confidence, k, np.inf)) * math.sqrt(k * (k + 1) / (12 * n))
    seeds = wide.index.get_level_values("seed").nunique()
    best = next(iter(ranks), None)
    others = [method for method in ranks if method != best]
    rejected = seeds > 1 and n > 1 and (k == 2 or friedman < level)
    against = holm([_wilcoxon(wide[best], wide[other]) for other in others]) if best else []
    pairs = [
        {"a": method_name(a), "b": method_name(b), "difference": _difference(wide[a], wide[b]).mean()}
        | {"p": _wilcoxon(wide[a], wide[b])}
        for a, b in combinations(ranks, 2)
    ]
    corrected = holm([pair["p"] for pair in pairs])
    return Comparison(
        measure=measure,
        budget=budget,
        blocks=n,
        seeds=seeds,
        ranks=ranks,
        friedman=friedman,
        critical_difference=critical,
        pairs=_frame(
            [
                {**pair, "p_holm": p, "separated": seeds > 1 and p < level}
                for pair, p in zip(pairs, corrected, strict=True)
            ]
        ),
        best=best,
        tied=[other for other, p in zip(others, against, strict=True) if not (rejected and p < level)],
    )


def holm(p: list[float]) -> list[float]:
    """p-values that hold for all tests together (Holm 1979), in the order given."""
    order = np.argsort(p)
    scaled = [(len(p) - i) * p[j] for i, j in enumerate(order)]
    corrected = np.minimum(np.maximum.accumulate(scaled), 1) if p else np.zeros(0)
    return [float(corrected[i]) for i in np.argsort(order)]


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows)


def _check(measure: str) -> Any:
    if measure not in MEASURES:
        raise InputError(f"There is no measure {measure!r}. There are {', '.join(MEASURES)}.")
    return MEASURES[measure]


def _usable(table: pd.DataFrame) -> pd.DataFrame:
    """Done, and within the budget, which solvers with steps of their own choosing may exceed."""
    return table[(table["status"] == "done") & (table["evaluations"] <= table["budget"])]


def _difference(a: Any, b: Any) -> Any:
    """How far two are apart; 0 where both are infinite, as the PSNR of equal frames is."""
    return (a - b).fillna(0)


def _wilcoxon(a: Any, b: Any) -> float:
    """Two-sided p-value; 1 where nothing differs, or there is one pair only."""
    from scipy import stats

    difference = np.asarray(_difference(a, b))
    if len(difference) < 2 or not np.any(difference):
        return 1.0
    return float(stats.wilcoxon(difference).pvalue)


def _interval(values: Any, confidence: float, resamples: int) -> tuple[float, float]:
    """A bootstrap interval of the mean, the same for the same values."""
    from scipy import stats

    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
