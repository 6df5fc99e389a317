"""Models that run on this machine: fetching their weights, running and metering them."""
