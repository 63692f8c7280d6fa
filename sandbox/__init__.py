"""Nexi, AWS and API Gateway on this machine, for development and tests. Never deployed.

Shares no protocol code with the layer: a mistake must not be made twice and agree with itself.
"""
