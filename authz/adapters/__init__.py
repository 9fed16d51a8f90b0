"""The doors to the outside: each third party is imported by its own adapter alone, and no adapter knows another."""
