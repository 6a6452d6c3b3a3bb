"""What inference needs of a trained program: numbers that are known, folded into few."""
