"""Documents become tokens, and tokens become lanes: `sources -> tokenizers -> corpus -> lanes`. No torch here."""
