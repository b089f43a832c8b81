"""A SageMaker endpoint on one machine: the API that clients call, the fleets behind it, and the router between them.

It knows containers only over HTTP, and nothing of what runs in a container imports it.
"""
