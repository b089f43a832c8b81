"""Instances: process trees, each at an address of its own in a named zone; started, asked, replaced and ended."""
