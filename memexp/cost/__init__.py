"""What a run costs in memory and time, by arithmetic. Sizes come from the model itself, on torch's meta device."""
