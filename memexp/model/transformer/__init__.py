"""The parts that all transformers share: attention, positions, feed-forward layers and the output layer."""
