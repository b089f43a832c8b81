"""The control plane: what there is (models, configs, endpoints, packages), and what becomes of it."""
