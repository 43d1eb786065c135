"""The processes that train or score a run together: which one this is, and what they tell each other."""
