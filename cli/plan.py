"""`memexp plan`: what the runs of a paper's table cost on named hardware, by arithmetic."""

from memexp.cli.cells import wanted
from memexp.cli.settings import CONF
from memexp.config import PlanConfig, TrainConfig
from memexp.experiment.cells import cells, chosen_columns
from memexp.experiment.definition import load
from memexp.report.formats import to_terminal
from memexp.report.text import console


def run(config: PlanConfig) -> None:
    """Print a line for each row that trains, of the first column asked for."""
    from memexp.bench.table_plan import HARDWARE, page

    experiment = load(CONF, config.table)
    column = chosen_columns(experiment, config.scale, config.corpora)[0]
    first = {
        cell.row: cell
        for cell in cells(experiment, config.scale, data=[column], seeds=experiment.seeds[:1])
        if cell.trains
    }
    composed = wanted([first[row] for row in experiment.rows if row in first])
    rows: list[tuple[str, TrainConfig]] = [(one.cell.row, one.settings) for one in composed]
    grid = page(
        f"{experiment.title}, scale={config.scale}, {column}",
        rows,
        HARDWARE[config.hardware],
        devices=config.devices,
        utilisation=config.utilisation,
    )
    screen = console()
    screen.print(to_terminal(grid, width=screen.width))
