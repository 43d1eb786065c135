"""Published checkpoints in the place of our decoder layers: what `size=checkpoint` builds."""
