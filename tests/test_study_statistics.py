"""Conclusions of a table that is made so that they are known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from svdkit.errors import InputError
from svdkit.study.statistics import budgets, compare, holm, means


def table(errors: Mapping[str, float], *, images: int = 4, seeds: int = 3, noise: float = 0.1) -> pd.DataFrame:
    """Rows at a budget of 10: errors by scheduler, times noise, and times what is common to a block."""
    rng = np.random.default_rng(0)
    rows = []
    for image in range(images):
        for seed in range(seeds):
            common = np.exp(rng.normal())
            for scheduler, error in errors.items():
                rows.append(
                    {"scheduler": scheduler, "schedule": "karras", "budget": 10, "image": str(image), "seed": seed}
                    | {"guidance": "1-3", "evaluations": 10.0, "seconds_denoise": 1.0, "status": "done"}
                    | {"latent_error": error * common * np.exp(noise * rng.normal()), "motion": 1.0}
                )
    frame = pd.DataFrame(rows)
    return frame.assign(psnr=-10 * np.log10(frame["latent_error"]))


def test_what_differs_in_every_block_is_separated() -> None:
    found = compare(table({"bad": 4.0, "best": 1.0, "worse": 2.0}), 10)
    assert [scheduler for scheduler, _ in found.methods] == ["best", "worse", "bad"]
    assert list(found.ranks.values()) == [1, 2, 3]
    assert (found.best, found.tied, found.blocks, found.seeds) == (("best", "karras"), [], 12, 3)
    assert found.pairs["separated"].all()
    assert (
        found.conclusion == "best, karras is best at 10 evaluations, over 12 blocks, and separated from all 2 others."
    )


def test_higher_is_better_for_some_measures() -> None:
    assert compare(table({"bad": 4.0, "best": 1.0}), 10, "psnr").best == ("best", "karras")


def test_what_does_not_differ_is_not_separated() -> None:
    found = compare(table({"a": 1.0, "b": 1.0, "c": 1.0}), 10)
    assert len(found.tied) == 2
    assert not found.pairs["separated"].any()
    assert found.conclusion.startswith("Not separated at 10 evaluations")


def test_the_tied_are_told_from_the_beaten() -> None:
    found = compare(table({"a": 1.0, "b": 1.01, "c": 3.0}), 10)
    assert found.conclusion.endswith("separated from 1 of 2 others; not separated from 1.")
    assert {found.best, *found.tied} == {("a", "karras"), ("b", "karras")}


@pytest.mark.parametrize("shape", [{"seeds": 1}, {"images": 1, "seeds": 1}])
def test_one_seed_is_no_ground_for_a_conclusion(shape: dict[str, int]) -> None:
    found = compare(table({"best": 1.0, "worse": 2.0, "bad": 9.0}, **{"images": 20, **shape}), 10)
    assert len(found.tied) == 2
    assert not found.pairs["separated"].any()
    assert "one seed is no ground" in found.conclusion


def test_tests_are_those_of_the_textbook() -> None:
    data = table({"a": 1.0, "b": 1.1, "c": 1.2, "d": 1.05})
    found = compare(data, 10)
    wide = data.pivot(index=["image", "seed"], columns="scheduler", values="latent_error")
    assert found.friedman == pytest.approx(stats.friedmanchisquare(*wide.to_numpy().T).pvalue)
    for pair in found.pairs.itertuples():
        a, b = wide[pair.a.split(",")[0]], wide[pair.b.split(",")[0]]
        assert pair.p == pytest.approx(stats.wilcoxon(a, b).pvalue)
        assert pair.difference == pytest.approx((a - b).mean())
    # Demšar 2006, table 5 (a): q is 2.569 for four classifiers at 0.05.
    assert found.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 12)), rel=1e-3)


def test_equal_frames_do_not_keep_methods_from_being_separated() -> None:
    data = table({"a": 1.0, "b": 100.0}, seeds=2, noise=0.0)
    data.loc[(data["image"] == "0") & (data["seed"] == 0), "psnr"] = np.inf
    found = compare(data, 10, "psnr")
    (pair,) = found.pairs.itertuples()
    assert pair.difference == pytest.approx(20 * 7 / 8)
    assert pair.p == pytest.approx(2 * 0.5**7)
    assert (pair.separated, found.best, found.tied) == (True, ("a", "karras"), [])


def test_holms_correction() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def test_a_failed_cell_takes_its_block_from_all() -> None:
    data = table({"a": 1.0, "b": 2.0, "c": 3.0})
    data.loc[0, ["status", "latent_error"]] = ["failed", np.nan]
    assert compare(data, 10).blocks == 11


def test_what_exceeds_its_budget_is_not_compared() -> None:
    data = table({"a": 1.0, "adaptive": 0.1})
    data.loc[data["scheduler"] == "adaptive", "evaluations"] = 27.0
    found = compare(data, 10)
    assert found.methods == [("a", "karras")]
    assert found.conclusion.startswith("Nothing can be compared")
    assert budgets(data) == []
    assert budgets(table({"a": 1.0, "b": 2.0})) == [10]
    assert budgets(table({"a": 1.0, "b": 2.0}).assign(status="failed")) == []


def test_intervals_hold_the_mean_and_shrink_with_blocks() -> None:
    few, many = (means(table({"a": 1.0, "b": 2.0}, images=n)) for n in (2, 20))
    assert list(few["scheduler"]) == ["a", "b"]
    for found in (few, many):
        assert ((found["low"] < found["mean"]) & (found["mean"] < found["high"])).all()
    assert list(many["blocks"]) == [60, 60]
    width = [float((found["high"] - found["low"]).iloc[0] / found["mean"].iloc[0]) for found in (few, many)]
    assert width[1] < width[0] / 2
    again = means(table({"a": 1.0, "b": 2.0}, images=2))
    pd.testing.assert_frame_equal(again, few)
    single = means(table({"a": 1.0}, images=1, seeds=1))
    assert single[["low", "high"]].isna().all(axis=None)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng, covered = np.random.default_rng(5), 0
    base = table({"a": 1.0}, images=5, seeds=6)
    for _ in range(60):
        found = means(base.assign(latent_error=rng.normal(3, 1, len(base))), resamples=300).iloc[0]
        covered += found["low"] <= 3 <= found["high"]
    assert 50 <= covered <= 60


@pytest.mark.parametrize("measure", ["motion", "beauty"])
def test_measures_that_decide_nothing(measure: str) -> None:
    with pytest.raises(InputError, match=measure):
        compare(table({"a": 1.0, "b": 2.0}), 10, measure)
