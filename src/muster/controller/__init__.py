"""DO it: three loops, each moving one noun one step, with only the store between them."""
