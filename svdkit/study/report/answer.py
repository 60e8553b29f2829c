"""The answer in sentences: what the statistics of one budget say, and what they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..statistics import method_name

PRIMARY = "latent_error"  # nothing but the solver's error: the decoder and the eye come after it
OTHERS = ("psnr", "ssim", "perceptual", "warping_error")

_NAMED = 6  # of methods that are not separated from the best, as many are told by name

SCOPE = (
    "Schedulers are compared at equal numbers of evaluations of the denoiser, in blocks of an image, seed and guidance "
    "with the same injected noise and the same conditioning. Quality is the distance, in latents, from a reference "
    "solution of the same equation: it says how well a scheduler solves it, not how much a viewer likes the video."
)

Method = tuple[str, str]


class Answer(NamedTuple):
    """What the page says first about one budget: its name, whether one method is separated from all, and sentences."""

    budget: int
    separated: bool
    tag: str
    name: str
    sentences: list[str]


def answer(compared: Mapping[tuple[str, int], Any], budget: int, means: Mapping[Method, Any]) -> Answer:
    """Put one budget's comparison into words.

    Args:
        compared: `statistics.compare`, by measure and budget.
        budget: in evaluations.
        means: the rows of the primary measure's `statistics.means` at this budget (mean, low, high), by method.
    """
    comparison = compared[PRIMARY, budget]
    others = {name: compared[name, budget] for name in OTHERS if (name, budget) in compared}
    best, tied, blocks = comparison.best, comparison.tied, comparison.blocks
    count = len(comparison.methods)
    if best is None or count < 2:
        return Answer(budget, False, "no conclusion", "No conclusion", [comparison.conclusion])
    mean = means[best]
    sentences = [comparison.conclusion]
    lead = f"{method_name(best)}: mean {short(comparison.measure)} {number(mean.mean)}{interval(mean.low, mean.high)}"
    sentences.append(
        f"{lead}, mean rank {comparison.ranks[best]:.2f} of {count} over {blocks} {_plural(blocks, 'block')}."
    )
    if not math.isnan(comparison.friedman):
        said = "the methods differ" if comparison.friedman < 0.05 else "no difference between the methods is shown"
        sentences.append(f"Friedman test: p {probability(comparison.friedman)}, {said}.")
    if 2 ** (1 - blocks) * (count - 1) >= 0.05:  # the smallest p-value of the test, times Holm's first factor
        few = f"{blocks} {_plural(blocks, 'block')}"
        sentences.append(f"With {few} no test can separate {count} methods; add images or seeds.")
    agree = [short(measure) for measure, other in others.items() if other.best == best]
    differ = [
        f"{method_name(other.best)} by {short(measure)}"
        for measure, other in others.items()
        if other.best not in (None, best)
    ]
    if agree:
        sentences.append(f"It also has the best mean rank by {_listed(agree)}.")
    if differ:
        sentences.append(f"Another has the best mean rank by other measures: {'; '.join(differ)}.")
    if not tied:
        return Answer(budget, True, "separated from all others", method_name(best), sentences)
    if len(tied) == count - 1:
        return Answer(budget, False, "not separated", "No winner", sentences)
    more = [f"and {len(tied) - _NAMED} more"] if len(tied) > _NAMED else []
    named = "; ".join([*map(method_name, tied[:_NAMED]), *more])
    sentences.insert(1, f"Not separated from it: {named}.")
    tail = method_name(tied[0]) if len(tied) == 1 else f"one of {len(tied)} others"
    return Answer(
        budget, False, f"not separated from {len(tied)} of {count - 1}", f"{method_name(best)} or {tail}", sentences
    )


def cautions(table: Any, metadata: Mapping[str, Any]) -> list[str]:
    """What limits the answer: the reference's own error, cells beyond their budget, failures."""
    found = []
    done = table[table["status"] == "done"]
    blocks = ("image", "seed", "guidance")
    own = {tuple(one[name] for name in blocks): one["convergence"] or 0.0 for one in metadata["references"]}
    if max(own.values(), default=0):
        reference = metadata["reference"]
        found.append(
            f"The reference is {reference['scheduler']} with {reference['evaluations']} evaluations. It differs from "
            f"itself at half as many by up to {max(own.values()):.2%} (relative RMS, in latents); smaller errors "
            "are not resolved."
        )
        of = done[list(blocks)].itertuples(index=False, name=None)
        near = sum(error < own.get(block, 0) for error, block in zip(done[PRIMARY], of, strict=True))
        if near:
            found.append(
                f"{near} {_plural(near, 'cell is', 'cells are')} nearer to the reference than it is to itself at half "
                "its budget: which of these is best is not told."
            )
    if over := int((done["evaluations"] > done["budget"]).sum()):
        found.append(
            f"{over} cells of adaptive solvers used more evaluations than their budget; no test includes them."
        )
    if failed := len(table) - len(done):
        found.append(f"{failed} {_plural(failed, 'cell')} failed, and the errors are listed below the table.")
    return found


def short(measure: str) -> str:
    """A column's name for a sentence or a table's head."""
    return " ".join(word.upper() if word in ("rmse", "psnr", "ssim") else word for word in measure.split("_"))


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:#.3g}".rstrip(".") if 1e-4 <= abs(value) < 1e4 else f"{value:.2e}"


def interval(low: float, high: float) -> str:
    """A confidence interval in brackets, or nothing where one block gives none."""
    return "" if math.isnan(low) else f" [{number(low)}, {number(high)}]"


def probability(value: float) -> str:
    """A p-value as a relation."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _plural(count: int, word: str, several: str = "") -> str:
    return word if count == 1 else several or f"{word}s"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
