"""One HTML page of a sweep's results: read → choose → draw → page."""
