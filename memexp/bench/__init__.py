"""Speed and memory, each measured beside what it has to stand comparison with, on the machine at hand."""
