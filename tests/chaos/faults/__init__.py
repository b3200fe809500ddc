"""All faults; importing registers them."""

from . import clients, clock, network, servers, states  # noqa: F401
