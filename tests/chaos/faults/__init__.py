"""All faults; importing registers them."""

from . import budget, clients, clock, network, servers, states  # noqa: F401
