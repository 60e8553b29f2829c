"""`python -m svdkit.testing`: how far each backend is from the float64 reference, layer by layer, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

BEGIN, END = "<!-- conformance: begin -->", "<!-- conformance: end -->"


def measurements(backend: str, device: str | None, dtype: str, examples: int) -> dict[str, float]:
    """The worst error of each kernel, block and component, and of generations by scheduler."""
    from hypothesis import given, settings

    from .inputs import backend_of, measure
    from .kernels import KERNELS, Shape
    from .networks import PARTS, SCHEDULERS, SIZES, generate, generation_error, part_error, pipeline_of

    k = backend_of(backend, device, dtype)
    worst: dict[str, float] = {}
    for name, kernel in KERNELS.items():
        errors = [measure(kernel.run, k, **shape) for shape in kernel.named.values()]

        @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
        @given(kernel.drawn)
        def drawn(shape: Shape) -> None:
            errors.append(measure(kernel.run, k, **shape))  # noqa: B023  (it is called at once)

        drawn()
        worst[f"`{name}`"] = max(errors)
    for name, part in PARTS.items():
        network = part.build(k)
        worst[name] = max(part_error(name, network, k, *size) for size in SIZES)
    for scheduler in SCHEDULERS:
        worst[f"generation, `{scheduler}`"] = generation_error(generate(pipeline_of(k, scheduler)), scheduler)
    return worst


def table(backends: Sequence[str], device: str | None = None, examples: int = 10) -> str:
    """Markdown: a row a layer, a column for each backend and dtype."""
    from ..errors import MissingDependencyError
    from .inputs import backend_of

    columns: dict[str, dict[str, float]] = {}
    for backend in backends:
        try:
            k = backend_of(backend, device)
        except MissingDependencyError as error:
            click.echo(f"{backend} is left out: {error}", err=True)
            continue
        for dtype in k.dtypes:
            click.echo(f"{backend} {dtype} on {k.device}", err=True)
            columns[f"{backend} {dtype}"] = measurements(backend, device, dtype, examples)
    lines = [["layer", *columns], ["---", *["---:"] * len(columns)]]
    for layer in next(iter(columns.values()), {}):
        lines.append([layer, *(f"{column[layer]:.0e}" if column[layer] else "0" for column in columns.values())])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@click.command()
@click.argument("backends", metavar="[BACKEND]...", nargs=-1)
@click.option("--device", help="The backends' default if not given.")
@click.option("--examples", type=click.IntRange(1), default=10, show_default=True, help="Shapes drawn for each kernel.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="A Markdown file, whose table between markers is replaced."
)
def main(backends: tuple[str, ...], device: str | None, examples: int, output: Path | None) -> None:
    """Print the worst relative error of each layer against NumPy in float64, for each BACKEND and dtype.

    BACKEND is a registered name; all that are available if none is given.
    """
    from ..plugins import list_backends

    names = backends or tuple(info.name for info in list_backends() if info.available)
    page = output.read_text(encoding="utf-8") if output is not None and output.exists() else f"{BEGIN}\n{END}\n"
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise click.ClickException(f"{output} has no lines {BEGIN} and {END} for the table to stand between.")
    text = table(names, device, examples)
    if output is None:
        click.echo(text)
    else:
        output.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
