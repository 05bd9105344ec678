"""WHAT should be: pure functions from wanted and observed state to actions, with a report that explains them."""
