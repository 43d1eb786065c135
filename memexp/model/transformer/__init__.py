"""What every transformer here is made of: attention, positions, feed-forward layers and the output layer."""
