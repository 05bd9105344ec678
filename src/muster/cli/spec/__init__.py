"""Deployment files: YAML (and therefore JSON) as a person writes it, to the body that AutoDL's create call takes."""
