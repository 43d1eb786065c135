"""The task of quadratic equations."""

import math

import numpy as np

from memexp.data.sources.tasks.task import MARK, Drawn, Task


class Equations(Task):
    """Say the roots of a quadratic equation whose solution is written out (Bulatov et al. 2022, table 1).

    Six fields of 30 characters, each character a word, filled up with `_`: the equation, the same divided by its first
    coefficient, the discriminant, the smaller root, the larger root, and after the mark the answer: 180 inputs. Scored
    are the answer and the first `_` behind it. Roots are integers of -100 to 100 and the multiplier is one of 1 to 10;
    a fifth of the equations have no real roots. Slice: the number of different real roots.

    The paper gives these numbers; its text was not available, so what the fields hold is this module's own.

        3*x^2-15*x+18=0_______________
        x^2-5*x+6=0___________________
        D=5^2-4*6=1=1^2_______________
        x=(5-1)/2=2___________________
        x=(5+1)/2=3___________________>
        2,3___________________________
        ^^^^
    """

    FIELD = 30
    LARGEST_ROOT, LARGEST_MULTIPLIER = 100, 10
    WITHOUT_ROOTS = 0.2

    def draw(self, generator: np.random.Generator, split: str) -> Drawn:
        """An equation, its solution, and the answer."""
        roots = generator.integers(-self.LARGEST_ROOT, self.LARGEST_ROOT + 1, size=2).tolist()
        multiplier = int(generator.integers(1, self.LARGEST_MULTIPLIER + 1))
        linear, constant = -sum(roots), math.prod(roots)
        if generator.random() < self.WITHOUT_ROOTS:
            # Larger than the constant at which both roots would be equal.
            constant = linear**2 // 4 + int(generator.integers(1, self.LARGEST_ROOT**2 + 1))
        *solution, answer = solve(multiplier, linear, constant)
        text = "".join(field.ljust(self.FIELD, "_") for field in solution) + MARK
        answers = range(len(text), len(text) + len(answer) + 1)
        real = 0 if answer == "none" else len(set(answer.split(",")))
        return Drawn(text + answer.ljust(self.FIELD, "_"), answers, {"roots": real})


def solve(multiplier: int, linear: int, constant: int) -> list[str]:
    """The steps from `multiplier * (x^2 + linear * x + constant) = 0` to its roots, and the answer.

    `linear` is even or odd as the root of the discriminant is, so that real roots are integers.
    """
    equations = [_equation(*(factor * number for number in (1, linear, constant))) for factor in (multiplier, 1)]
    discriminant = linear**2 - 4 * constant
    step = f"D={abs(linear)}^2{'+' if constant < 0 else '-'}4*{abs(constant)}={discriminant}"
    if discriminant < 0:
        return [*equations, step, *["none"] * 3]
    root = math.isqrt(discriminant)
    roots = [(-linear - root) // 2, (-linear + root) // 2]
    halves = [f"x=({-linear}{sign}{root})/2={value}" for sign, value in zip("-+", roots, strict=True)]
    return [*equations, f"{step}={root}^2", *halves, ",".join(map(str, roots))]


def _equation(square: int, linear: int, constant: int) -> str:
    """5*x^2-x+3=0; a factor of 1 and what is 0 are left out."""
    terms = ((square, "x^2"), (linear, "x"), (constant, ""))
    text = "".join(f"{_factor(factor, power)}{power}" for factor, power in terms if factor)
    return f"{text.removeprefix('+')}=0"


def _factor(factor: int, power: str) -> str:
    if power and abs(factor) == 1:
        return f"{factor:+d}"[0]
    return f"{factor:+d}*" if power else f"{factor:+d}"
