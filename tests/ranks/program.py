"""What the processes of `tests/ranks/conftest.py` run: they join each other, then do what a line on standard input says, and go on.

A line names a function of `tests.ranks.work` and its arguments; the answer is a line of what it returns.
"""

import base64
import importlib
import pickle
import sys
import traceback


def main() -> None:
    from memexp.ranks import exchange
    from memexp.ranks.place import place_of

    answers, sys.stdout = sys.stdout, sys.stderr
    place = place_of()
    assert place is not None
    exchange.join(place, on_gpu=False)
    for line in sys.stdin:
        module, name, arguments = pickle.loads(base64.b64decode(line))
        try:
            answer = True, getattr(importlib.import_module(module), name)(**arguments)
        except Exception as error:
            traceback.print_exc()
            answer = False, f"{type(error).__name__}: {error}"
        print(base64.b64encode(pickle.dumps(answer)).decode(), file=answers, flush=True)


if __name__ == "__main__":
    main()
