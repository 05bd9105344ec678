"""The routes, one noun a module; rules live below, in the model and the planner."""
