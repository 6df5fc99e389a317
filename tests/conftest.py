"""What holds for every test."""

from hypothesis import HealthCheck, settings

# A collection of the whole run's garbage, or the other worker's servers, may fall into any example.
# So may a busy machine's slowness into making the examples.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")
