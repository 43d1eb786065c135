"""Speed and memory on this machine, each measured beside what it is compared with."""
