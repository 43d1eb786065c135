"""`memexp generate`: continue a prompt with a trained model and its memory."""

import codecs
import sys
import time
from pathlib import Path

from memexp.config.commands import GenerateConfig
from memexp.errors import UserError
from memexp.files import read_bytes
from memexp.terminal import escape_lines

PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
"""Visible signs for control characters. A terminal would obey the characters themselves, and could hide or type text."""


def run(config: GenerateConfig) -> None:
    """Print the first continuation while it is drawn, then the others; everything that is not text goes to stderr."""
    import torch

    from memexp.device import describe
    from memexp.eval.evaluate import load_model, reopen, with_mem
    from memexp.eval.generate import Sampling, generate
    from memexp.files import find_root
    from memexp.store.folder import find_run
    from memexp.store.identity import trained_settings
    from memexp.terminal import tell
    from memexp.train.precision import arithmetic
    from memexp.train.remarks import of_the_precision

    text = _prompt(config)
    root = find_root(config.root)
    trained = find_run(root, config.run)
    if config.threads:
        torch.set_num_threads(config.threads)
    own = trained_settings(trained)
    if own.data.task == "classify":
        raise UserError(
            f"{trained.name} classifies documents (task=classify), so it predicts no text; expected a run of task=predict"
        )
    settings = with_mem(own, config.mem, run=trained)
    spec = reopen(trained, settings, root)
    model = load_model(spec, memory=config.memory, device=config.device)
    device = next(model.parameters()).device
    if device.type == "cuda" or (config.device == "auto" and (torch.version.cuda or torch.version.hip)):
        print(f"device: {describe(device, asked=config.device)}", file=sys.stderr)
    tell(of_the_precision(settings, device))
    tokenizer = spec.corpus.tokenizer
    prompt = tokenizer.encode(text)
    output = _Output(config.samples, len(prompt))
    try:
        for drawn in generate(
            model,
            prompt,
            tokens=config.tokens,
            lanes=config.samples,
            sampling=Sampling(config.temperature, config.top_k, config.top_p),
            seed=config.seed,
            memory=config.memory,
            arithmetic=arithmetic(settings),
        ):
            output.add(tokenizer.pieces(drawn.tokens_B.tolist()), float(drawn.nats_B.sum()))
    finally:  # also after an interruption, so that the last line is complete
        output.end()


def _prompt(config: GenerateConfig) -> str:
    """The text to continue.

    Raises:
        UserError: no text or two texts are given, or the text is not readable or not UTF-8.
    """
    if config.prompt and config.prompt_file is not None:
        raise UserError("prompt and prompt_file are both given; expected one of the two")
    if not config.prompt and config.prompt_file is None:
        raise UserError(
            "prompt is empty; expected text to continue in prompt or prompt_file, because the first token of a document is "
            "never predicted"
        )
    name = "prompt" if config.prompt_file is None else f"prompt_file {config.prompt_file}"
    try:
        if config.prompt_file is None:
            raw = config.prompt.encode("utf-8", "surrogateescape")
        else:
            raw = read_bytes(Path(config.prompt_file).expanduser())
        return raw.decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}; expected a text file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 from byte {error.start} on; expected text in UTF-8") from error
    except ValueError as error:
        raise UserError(f"cannot read {name}: {error}; expected a text file") from error


class _Output:
    """Streams the first sample to stdout and keeps the others until the end."""

    def __init__(self, samples: int, prompt_tokens: int) -> None:
        self._samples, self._prompt_tokens = samples, prompt_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may span several tokens
        self._others: list[list[bytes]] = [[] for _ in range(samples - 1)]
        self._tokens, self._nats = 0, 0.0
        self._last = ""
        self._began = time.perf_counter()

    def add(self, pieces: list[bytes], nats: float) -> None:
        """Add the next token of every sample and the sum of their nats."""
        if not self._tokens:
            self._head(1)
        self._tokens += len(pieces)
        self._nats += nats
        self._write(self._decoder.decode(pieces[0]))
        for sample, piece in zip(self._others, pieces[1:], strict=True):
            sample.append(piece)

    def end(self) -> None:
        """Finish the line, write the other samples, and print the speed and the mean nats."""
        seconds = time.perf_counter() - self._began
        if not self._tokens:
            return
        self._write(self._decoder.decode(b"", final=True))
        self._end_line()
        for number, sample in enumerate(self._others, start=2):
            self._head(number)
            self._write(b"".join(sample).decode("utf-8", "replace"))
            self._end_line()
        print(
            f"{self._tokens:,} tokens after a prompt of {self._prompt_tokens:,} in {seconds:.2f} s "
            f"({self._tokens / seconds:,.0f} tokens/s), {self._nats / self._tokens:.4f} nats per token",
            file=sys.stderr,
        )

    def _head(self, number: int) -> None:
        if self._samples > 1:
            print(f"sample {number} of {self._samples}", file=sys.stderr)

    def _write(self, text: str) -> None:
        self._last = text or self._last
        sys.stdout.write(escape_lines(text.translate(PICTURES)) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    def _end_line(self) -> None:
        if not self._last.endswith("\n"):
            self._write("\n")
