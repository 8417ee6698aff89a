"""A row's shape, and what the row says."""

from feedback.core.ids import PREFIXES
from feedback.dialects.table import GENERAL, SPECIAL, Shape
from feedback.rows.examples import Example
from feedback.rows.said import About, Misfit, Options, Row, Said

LAYOUTS: dict[str, Shape] = {shape.name: shape for shape in (*SPECIAL, *GENERAL)}


def detect(row: Row) -> str:
    """The layout of a row, by the columns that it has. Raises Misfit."""
    for shapes in (SPECIAL, GENERAL):
        found = [shape.name for shape in shapes if shape.fits(row)]
        if len(found) == 1:
            return found[0]
        if found:
            raise Misfit(f"it may be {' or '.join(found)}: say which with --layout")
    has = ", ".join(sorted(map(str, row))) or "no columns"
    raise Misfit(
        f"it has {has}, which is none of the known layouts; say what its columns are with --map "
        "COLUMN=FIELD, "
        "like prompt, completion, label, rating, chosen or rejected"
    )


def read(row: Row, options: Options) -> list[Said]:
    """What a row says. Raises Misfit where that is nothing, or where a part is not understood."""
    name = options.layout
    try:
        options, row = options.of_a_row(row), options.renamed(row)
        name = detect(row) if name == "auto" else name
        said = list(LAYOUTS[name].read(row, options))
    except Misfit:
        raise
    except KeyError as error:
        raise Misfit(f"it lacks {error}, which rows of {name} have") from error
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise Misfit(f"it is no row of {name}: {type(error).__name__}: {error}") from error
    if not said:
        raise Misfit("there is no judgement in it")
    return said


def parse(row: Row, layout: str = "auto", options: Options | None = None) -> Example:
    """The one example in a row that stands alone. Raises Misfit."""
    options = options or Options(layout=layout)
    for complete in (False, True):  # once for the range of its numbers
        options.numbers.complete = complete
        said = read(row, options)
    if len(said) != 1:
        raise Misfit(f"it has {len(said)} judgements")
    (found,) = said
    if isinstance(found, Misfit):
        raise found
    if not isinstance(found, Example):
        return alone(found)
    return found


def alone(said: Said) -> Example:
    """A judgement of an answer that no row shows: of a completion of this service. Raises Misfit."""
    if not isinstance(said, About):
        raise Misfit("nobody judged this answer")
    ours = next((name for name in said.names if name.startswith(PREFIXES)), None)
    if ours is None:
        named = " or ".join(map(repr, said.names)) or "nothing"
        raise Misfit(
            f"it is about {named}, no completion of this service, and these files have no row of that "
            "with its "
            "input and output: import the file that has it along with this one"
        )
    return said.make(ours)
