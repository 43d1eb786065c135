"""Reports: pure functions of run folders that make tables, loss differences and plots. This package never imports torch."""
