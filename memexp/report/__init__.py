"""Reports: pure functions of run folders that make tables, loss differences and plots. Nothing here imports torch."""
