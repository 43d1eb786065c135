"""Estimates of a run's memory and time. Sizes come from the model itself, built on torch's meta device."""
