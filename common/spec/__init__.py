"""Run specs and model profiles: their models, and the YAML files that users write."""
