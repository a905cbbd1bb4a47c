"""Run specs and model profiles: their models, and the YAML files of users."""
