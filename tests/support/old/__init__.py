"""Programs that know nothing of geventws, but for their first two lines."""
