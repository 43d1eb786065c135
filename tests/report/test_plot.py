"""What all plots share."""

from memexp.report.plot import drawing


def test_lines_of_one_plot_are_told_apart() -> None:
    """Also more of them than there are colours."""
    with drawing(3, 2) as figure:
        axes = figure.subplots()
        lines = [axes.plot([0, 1], marker="o")[0] for _ in range(40)]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 40
